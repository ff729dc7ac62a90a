"""The script that lets a card's containerd pull what it knows as nvcr.io through a mirror."""

from __future__ import annotations

import shlex

FOLDER = "/etc/containerd/certs.d"

_AWK = r"""
# Reads a containerd config.toml, writes it with the mirror to the file `out`, and prints what to do:
#   set DIR      use `out`; the drop-in folder is DIR
#   keep DIR     the file names the drop-in folder DIR already
#   mirror       use `out`; the mirror is in there, as containerd takes no drop-in folder beside mirrors and TLS of its own
#   problem WHY  the file is better left alone
# With check=1 only the mixture that containerd refuses is looked for.
function problem(why) { print "problem " why; exit }
function under(path, above) { return index(path SUBSEP, above SUBSEP) == 1 }
function blank(text) { return text ~ /^[ \t]*(#.*)?$/ }

# The dotted key at the start of a text, its parts joined by SUBSEP; `rest` is what follows.
function key(text,   path, part, quote, end) {
  for (path = "";; path = path SUBSEP) {
    sub(/^[ \t]+/, "", text)
    quote = substr(text, 1, 1)
    if (quote == "\"" || quote == "\047") {
      end = index(substr(text, 2), quote)
      part = substr(text, 2, end - 1)
      if (end == 0 || (quote == "\"" && part ~ /\\/)) problem("line " n ": a key that can not be read")
      text = substr(text, end + 2)
    } else {
      if (!match(text, /^[A-Za-z0-9_-]+/)) problem("line " n ": neither a table nor a key")
      part = substr(text, 1, RLENGTH)
      text = substr(text, RLENGTH + 1)
    }
    path = path part
    sub(/^[ \t]+/, "", text)
    if (substr(text, 1, 1) != ".") break
    text = substr(text, 2)
  }
  rest = text
  return path
}

# Follows a value to the end of its line, counting the brackets that are open; returns its length without the comment.
function value(text,   i, c, q) {
  for (i = 1; i <= length(text); i++) {
    c = substr(text, i, 1)
    if (c == "#") return i - 1
    if (c == "[" || c == "{") depth++
    else if (c == "]" || c == "}") depth--
    else if (c == "\"" || c == "\047") {
      if (substr(text, i, 3) == c c c) problem("line " n ": a text of several lines")
      for (i++; (q = substr(text, i, 1)) != c; i++) {
        if (q == "") problem("line " n ": a quote that is not closed")
        if (q == "\\" && c == "\"") i++
      }
    }
  }
  return length(text)
}

{ line[NR] = $0 }

END {
  table = "" # the one that keys belong to
  for (n = 1; n <= NR; n++) {
    text = line[n]
    sub(/\r$/, "", text)
    if (depth > 0) { value(text); last[count] = n; continue }
    if (blank(text)) continue
    count++
    at[count] = last[count] = n
    sub(/^[ \t]+/, "", text)
    if (substr(text, 1, 1) == "[") {
      twice[count] = substr(text, 1, 2) == "[["
      table = path[count] = key(substr(text, 2 + twice[count]))
      head[count] = 1
      end = twice[count] ? "]]" : "]"
      if (index(rest, end) != 1 || !blank(substr(rest, length(end) + 1))) problem("line " n ": a table that can not be read")
    } else {
      path[count] = (table == "" ? "" : table SUBSEP) key(text)
      within[count] = table
      if (substr(rest, 1, 1) != "=") problem("line " n ": a key without a value")
      written[count] = substr(rest, 2)
      sub(/^[ \t]+/, "", written[count])
      length_[count] = value(written[count])
      if (path[count] == "version") version = substr(written[count], 1, length_[count])
    }
  }
  if (depth != 0) problem("brackets that are not closed")

  sub(/[ \t]+$/, "", version)
  # A file without a version is of version 1; one without anything can be of any.
  if (version == "" && count == 0) { version = 2; first = "version = 2" }
  if (version == 3) { plugin = "io.containerd.cri.v1.images"; name = "\"" plugin "\"" }
  else if (version == 2) { plugin = "io.containerd.grpc.v1.cri"; name = "\"" plugin "\"" }
  else if (version == 1 || version == "") { plugin = "cri"; name = plugin }
  else problem("version " version " is not known")
  registry = "plugins" SUBSEP plugin SUBSEP "registry"
  mirrors = registry SUBSEP "mirrors"
  ours = mirrors SUBSEP "nvcr.io"

  for (n = 1; n <= count; n++) {
    where = "line " at[n] ": "
    if (under(registry, path[n]) && (twice[n] || !head[n])) problem(where "the registry is not a table of its own")
    if (!under(path[n], registry)) continue
    if (!head[n] && !under(within[n], registry)) problem(where "the registry is not a table of its own")
    if (twice[n]) problem(where "a list of tables")
    parts = split(substr(path[n], length(registry) + 2), part, SUBSEP)
    if (path[n] == registry) registry_at = at[n]
    else if (path[n] == registry SUBSEP "config_path" && !head[n]) folder_at = n
    else if (part[1] == "mirrors" && parts > 1) {
      old = 1
      if (path[n] == ours && head[n]) ours_at = at[n]
      else if (path[n] == ours SUBSEP "endpoint" && within[n] == ours) endpoint_at = n
      else if (!head[n] && (within[n] == registry || (within[n] == mirrors && part[2] == "nvcr.io")))
        problem(where "mirrors that are not tables of their own")
    } else if (part[1] == "mirrors" && !head[n]) problem(where "mirrors that are not tables of their own")
    else if (part[1] == "configs" && parts < 3 && !head[n]) problem(where "configs that are not tables of their own")
    else if (part[1] == "configs" && part[3] == "tls") old = 1
  }
  if (folder_at) {
    folder = substr(written[folder_at], 1, length_[folder_at])
    sub(/[ \t]+$/, "", folder)
    if (folder !~ /^("[^"\\]*"|\047[^\047]*\047)$/) problem("line " at[folder_at] ": a config_path that can not be read")
    folder = substr(folder, 2, length(folder) - 2)
  }
  if (folder != "" && old) problem("config_path beside mirrors or tls, which containerd refuses")
  if (check) exit

  if (old) {
    entry = "  endpoint = [" ENVIRON["ENDPOINT"] "]"
    if (endpoint_at) {
      change[at[endpoint_at]] = entry
      for (n = at[endpoint_at] + 1; n <= last[endpoint_at]; n++) gone[n] = 1
    } else if (ours_at) after[ours_at] = entry
    else end_ = "\n[plugins." name ".registry.mirrors.\"nvcr.io\"]\n" entry
    print "mirror"
  } else {
    list = index(folder, ":")
    if (folder == "") folder = ENVIRON["FOLDER"]
    else {
      if (list) folder = substr(folder, 1, list - 1)
      if (folder !~ /^\//) problem("line " at[folder_at] ": a config_path that is not absolute")
      # containerd 2 takes a list of folders for the name of one.
      if (!list || version != 3) { print "keep " folder; exit }
    }
    entry = "config_path = \"" folder "\""
    if (folder_at) {
      match(line[at[folder_at]], /^[ \t]*/)
      comment = substr(written[folder_at], length_[folder_at] + 1)
      change[at[folder_at]] = substr(line[at[folder_at]], 1, RLENGTH) entry (comment == "" ? "" : " " comment)
    } else if (registry_at) after[registry_at] = "  " entry
    else end_ = "\n[plugins." name ".registry]\n  " entry
    print "set " folder
  }
  printf "" > out
  if (first != "") print first > out
  for (n = 1; n <= NR; n++) {
    if (!(n in gone)) print ((n in change) ? change[n] : line[n]) > out
    if (n in after) print after[n] > out
  }
  if (end_ != "") print end_ > out
}
"""

_SCRIPT = r"""
config=$(readlink -f /etc/containerd/config.toml)
new=$config.dpf-new
trap 'rm -f "$new" "$new.dump" "$new.log"' EXIT

leave() {
  echo "config_containerd.sh: $config: $*. It is left as it is: images of nvcr.io are not pulled through $ENDPOINT" >&2
  exit 1
}

[ -f "$config" ] || leave "is missing"
cp -p "$config" "$new"
verdict=$(LC_ALL=C awk -v out="$new" "$program" "$config") || leave "awk can not read it"
case $verdict in
  "keep /"* | "set /"*) folder=${verdict#* } ;;
  mirror) folder= ;;
  *) leave "${verdict#problem }" ;;
esac
if [ "${verdict%% *}" != keep ] && command -v containerd >/dev/null; then
  containerd --config "$new" config dump >"$new.dump" 2>"$new.log" ||
    leave "containerd does not take it with the mirror in it: $(tail -n 1 "$new.log")"
  # With what it includes from other files.
  found=$(LC_ALL=C awk -v check=1 "$program" "$new.dump")
  case $found in *"which containerd refuses") leave "with the files that it imports it has ${found#problem }" ;; esac
fi
if [ -n "$folder" ]; then
  mkdir -p "$folder/nvcr.io"
  printf %s "$hosts" >"$folder/nvcr.io/hosts.toml"
fi
if [ "${verdict%% *}" != keep ]; then
  [ -e "$config.before-dpf" ] || cp -p "$config" "$config.before-dpf"
  mv "$new" "$config"
fi
"""


def containerd(endpoint: str) -> str:
    """Sets the mirror by containerd's drop-in folder, or beside the mirrors that the card's file has; the mirror's TLS is checked.

    A file that the script can't change safely stays as it is, and the script says why and fails: with a file that it does not
    take containerd would not start, and the card could run nothing.
    """
    hosts = f'server = "https://nvcr.io"\n\n[host.{_toml(endpoint)}]\n  capabilities = ["pull", "resolve"]\n'
    return (
        "#!/bin/bash\nset -e\n"
        f"export ENDPOINT={shlex.quote(_toml(endpoint))} FOLDER={FOLDER}\n"
        f"hosts={shlex.quote(hosts)}\nprogram='{_AWK}'\n{_SCRIPT.lstrip()}"
    )


def _toml(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
