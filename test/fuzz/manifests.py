"""Makes manifests from the schemas of the CRDs: good ones, and good ones of which something was broken.

A manifest that is random everywhere fails at its first field, and nothing behind that is ever looked at. So each begins as one that
fits its schema, edge values preferred, and then up to three places of it are broken: another type, null, text that is
huge or in odd letters, a number out of range, a field that is missing or that nobody knows.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from dpf.runtime.meta import Object
from dpf.sandbox import manifests
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_HOST_POWER_CYCLE_REQUIRED, ANNOTATION_RETRY, FEATURE_PREFIX

Json = dict[str, Any]
Place = tuple[Any, Any]
"""A container, and the key or index of something in it."""

KINDS: Final[tuple[type[Object], ...]] = (BFB, DPUFlavor, DPUSet, DPU, DPUCluster)
SCHEMAS: Final[dict[str, Json]] = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for crd in manifests.documents(manifests.CONFIG / "crd")
}

DIGITS: Final = 5000
"""More digits than Python makes a number of."""

WORDS: Final = (
    *(
        "",
        " ",
        "a",
        "worker1",
        "image",
        "flavor",
        "c",
        "ns",
        "0000-04-00",
        "0000:04:00",
        "*",
        "-",
        "/",
        "a/b",
        "..",
        "../../x",
    ),
    *(
        "10%",
        "0%",
        "100%",
        "1e3",
        "0x10",
        "٣",
        "²",
        "true",
        "null",
        "~",
        "no",
        "1",
        "-1",
        "9" * DIGITS,
        "0" * DIGITS + "1%",
    ),
    *(
        "NUM_OF_VFS=46",
        "NUM_OF_VFS=" + "9" * DIGITS,
        "PF_TOTAL_SF=" + "9" * DIGITS,
        "PF_TOTAL_SF=20",
        "ubuntu_PASSWORD='x'",
    ),
    *(
        "\n",
        "a\nb: c\n",
        "\t",
        "\r\n",
        "\x00",
        "\x7f",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\U0001f600",
        "é",
        "e\u0301",
        "'\"$`\\",
    ),
    *(
        "END_OF_USER_DATA",
        "$(reboot)",
        "{{ x }}",
        "%s",
        "%",
        "None",
        "x" * 300,
        "ß" * 2000,
        "True",
        "False",
        "Unknown",
        "Ready",
    ),
)
KEYS: Final = (
    *(f"{FEATURE_PREFIX}dpu-{index}-pci-address" for index in ("0", "1", "٣", "9" * DIGITS)),
    *(
        f"{FEATURE_PREFIX}dpu-0-psid",
        f"{FEATURE_PREFIX}dpu-0-ps-id",
        "cpu",
        "memory",
        "",
        "a",
        "a/b",
        "A" * 64,
        "é",
        "a b",
    ),
    *(ANNOTATION_HOST_POWER_CYCLE_REQUIRED, ANNOTATION_RETRY, "kubernetes.io/hostname", "nvidia.com/sf"),
)
MOMENTS: Final = (
    *("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789+05:30", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
    *("0000-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00+99:99", "2026-01-01T23:59:60Z"),
    *(
        "2026-01-01t00:00:00z",
        "2026-02-30T00:00:00Z",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01",
        "now",
    ),
    *("2026-01-01T00:00:00.1234567890123456Z", "2026-01-01T00:00:00x1Z", "2026-01-01T00:00:00+23:59"),
)
URLS: Final = (
    *("http://127.0.0.1:1/bf.bfb", "https://127.0.0.1:1/a/b.bfb", "http://[::1/bf.bfb", "http://127.0.0.1:99999/x.bfb"),
    *(
        "http://user:pass@127.0.0.1:1/%zz.bfb",
        "http:///x.bfb",
        "http://.bfb",
        "http://\x00.bfb",
        "http:// /é.bfb",
        "http://?.bfb",
    ),
    *(
        "http://127.0.0.1:1/#.bfb",
        "http://127.0.0.1:1/" + "x" * 3000 + ".bfb",
        "http://127.0.0.1:-1/x.bfb",
        "http://[v1.a]/x.bfb",
    ),
    *(
        "http://127.0.0.1:٣/x.bfb",
        "http://xn--a.localhost:1/x.bfb",
        "http://" + "a" * 70 + ".localhost:1/x.bfb",
        "http://%.bfb",
    ),
)
"""Each fits the pattern of the field; none needs a name server."""

FITTING: Final = (
    *(
        "bf-2.9.1.bfb",
        "A_b-.bfb",
        "..bfb",
        ".bfb",
        "-.bfb",
        "sha256:" + "0" * 64,
        "static",
        "kamaji",
        "a/b",
        "\U0001f600/",
        "*",
        " * ",
    ),
    *("Ready", "a.b/Ready", "A_b,c:d", "Created", "1", "+1.5", ".5Ki", "1e3", "16Gi", "0", "-1m", "9" * 60, "1E-9"),
)
"""Texts for the fields that have a pattern."""

RULED: Final = {
    "kubeconfig": ("", "k", "a-1.b", "0", "a" * 253),
    "key": ("a", "a/b", "A" * 63, "a" * 253 + "/b"),
    "value": ("", "1", "a-b", "x" * 63),
    "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "version": ("", "v1.31.0", "1.31", "v1.31.4+k3s1", "v1.32.0-rc.1", "9" * 60 + ".0.0"),
}
"""Texts for the fields that have a rule on what they may be."""

NODE_LABELS: Final = {"keys": ("a", "a/b", "A" * 63, "a.b-c/D_e.f"), "values": ("", "1", "a-b", "x" * 63)}
"""Labels that a Node can have; it is refused at once what it can't."""

JUNK: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1.5, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**64, 10**40, 1e308, -0.0, 1.0),
    *(
        "",
        "x",
        "10%",
        "x" * 70_000,
        "\ud800",
        [],
        {},
        [None],
        [[]],
        [{}],
        {"": None},
        {"a": {"a": {"a": None}}},
        [1, "a", None],
    ),
)

_texts = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
_keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=8))


def values(schema: Json, name: str = "") -> SearchStrategy[Any]:
    """What fits a schema."""
    if schema.get("x-kubernetes-int-or-string"):
        texts = st.sampled_from(_fitting(name, schema["pattern"]) if "pattern" in schema else WORDS)
        return st.one_of(
            st.integers(-1, 200), texts, st.sampled_from(("1%", "50%", "007%", "0" * DIGITS + "9%", "16Gi"))
        )
    match schema["type"]:
        case "object":
            return _objects(schema, name)
        case "array":
            return _arrays(schema, name)
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return st.one_of(st.sampled_from((low, high)), st.integers(low, min(high, low + 2000)))
    return _strings(schema, name)


def _fitting(name: str, pattern: str) -> list[str]:
    """Of what is known what fits a pattern. To make it from the pattern would take most of the time there is."""
    found = [word for word in (*WORDS, *FITTING) if len(word) < 80 and re.fullmatch(pattern, word)]
    if not found:
        raise LookupError(f"{name}: nothing in FITTING fits {pattern}")
    return found


def _strings(schema: Json, name: str) -> SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("format") == "date-time":
        return st.sampled_from(MOMENTS)
    if name == "url":
        return st.sampled_from(URLS)
    if "pattern" in schema:
        return st.sampled_from(_fitting(name, schema["pattern"]))
    if name in RULED and "x-kubernetes-validations" in schema:
        return st.sampled_from(RULED[name])
    return _texts


def _objects(schema: Json, name: str) -> SearchStrategy[Any]:
    if name in ("nodeLabels", "customLabel"):
        return st.dictionaries(*(st.sampled_from(each) for each in NODE_LABELS.values()), max_size=3)
    if "properties" not in schema:
        return st.dictionaries(_keys, values(schema["additionalProperties"]), max_size=3)
    fields = {each: values(of, each) for each, of in schema["properties"].items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {each: found for each, found in fields.items() if each in required},
        optional={each: found for each, found in fields.items() if each not in required},
    )


def _arrays(schema: Json, name: str) -> SearchStrategy[Any]:
    most = min(schema.get("maxItems", 3), 3)
    if schema.get("x-kubernetes-list-type") == "map":
        keys = schema["x-kubernetes-list-map-keys"]
        return st.lists(values(schema["items"]), max_size=most, unique_by=lambda each: tuple(each[key] for key in keys))
    return st.lists(values(schema["items"], name), max_size=most)


def _metadata() -> SearchStrategy[Json]:
    labels = st.dictionaries(
        st.sampled_from(("a", "b.c/d", "dpf.test/x")), st.sampled_from(("", "1", "a-b")), max_size=2
    )
    notes = st.dictionaries(
        st.sampled_from(("a", ANNOTATION_CHECKSUM, ANNOTATION_RETRY, ANNOTATION_HOST_POWER_CYCLE_REQUIRED)),
        _texts,
        max_size=2,
    )
    return st.fixed_dictionaries({}, optional={"labels": labels, "annotations": notes})


_PARTS: Final[dict[str, SearchStrategy[Json]]] = {
    kind: st.fixed_dictionaries(
        {"metadata": _metadata()} | {part: values(each) for part, each in schema.items() if part in ("spec", "status")}
    )
    for kind, schema in SCHEMAS.items()
}


@st.composite
def broken(draw: DrawFn, kind: type[Object]) -> Json:
    """A manifest of a kind, without a name, of which nothing to three things are broken."""
    body: Json = json.loads(json.dumps(draw(_PARTS[kind.RESOURCE.kind])))
    for _ in range(draw(st.integers(0, 3))):
        places = [place for part in ("spec", "status") if part in body for place in _places(body, part)]
        if places:
            _break(draw, *places[draw(st.integers(0, len(places) - 1))])
    return {"apiVersion": kind.RESOURCE.api_version, "kind": kind.RESOURCE.kind, **body}


def _places(container: Any, key: Any) -> Iterator[Place]:
    """All there is of a value, from outside in."""
    yield container, key
    value = container[key]
    inner = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for each in inner:
        yield from _places(value, each)


def _break(draw: DrawFn, container: Any, key: Any) -> None:
    how = draw(st.sampled_from(("junk", "junk", "text", "gone", "unknown")))
    if how == "gone":
        del container[key]
    elif how == "unknown" and isinstance(container[key], dict):
        container[key][draw(_keys)] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    elif how == "text":
        container[key] = draw(_texts)
    else:
        container[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))


def encoded(body: Json) -> bytes:
    """As it would be sent; half a surrogate pair too, as JSON can write that down."""
    return json.dumps(body).encode()


@cache
def collect(kind: type[Object], number: int) -> list[Json]:
    """So many manifests of a kind, the same ones each time."""
    found: list[Json] = []

    @settings(max_examples=number, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(broken(kind))
    def every(body: Json) -> None:
        found.append(body)

    every()
    return found
