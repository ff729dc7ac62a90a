"""Whether a shell can read a text, found out without running one.

A bf.cfg is sourced as a whole, so a quote that one of its lines leaves open keeps the card from being installed at all. This is a
reader for the grammar that dash and bash share (the library there is, bashlex, is under the GPL). It finds what swallows the lines
behind it: quotes, parentheses and commands that are not closed. What only one of the two shells reads, any other mistake, and
what is beyond this reader such as a here-document is left alone: nothing is called unreadable that bash might read.
"""

from __future__ import annotations

import re

DEEPEST = 40
"""Commands within commands; nobody writes more, and Python's stack is not endless."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PLAIN = re.compile(r"[^\s'\"\\`$;&|()<>]+|[^\S \t\n]+")
_DOUBLE = re.compile(r"[^\"\\`$]+")
_BRACED = re.compile(r"[^'\"\\`${}<>\n]+")
_DELIMITER = r"(?=[ \t\n;&|()<>]|\Z)"
_KEY = re.compile(r"([a-z]+|[{}!])" + _DELIMITER)
_REDIRECT = re.compile(r"[0-9]?(<<|<&|>&|<>|>>|>\||<|>)")
_ASSIGNMENT = re.compile(_NAME + r"\+?=")
_FUNCTION = re.compile(_NAME)
_ELEMENT = re.compile(_NAME + r"\[")
_ARITHMETIC = re.compile(r"\$\(\((?:\$[A-Za-z_]|[^()'\"`\\#{}\[\]\n$])*\)\)")
_WHOLE_BRACES = re.compile(r"\$\{(?:#?(?:" + _NAME + r"|[0-9]+)|[@*#?$!-])\}")
_BRACES = re.compile(r"\$\{(?:" + _NAME + r"|[0-9]+)(?::?[-=?+]|%%?|##?)")
_SIGNS = ("&&", "||", ";;", ";", "&", "|", "(", ")", "<", ">", "\n")

_RESERVED = frozenset(
    {"!", "{", "}", "case", "do", "done", "elif", "else", "esac", "fi", "for", "if", "in", "then", "until", "while"}
)
_BASH_ONLY = frozenset({"[[", "]]", "function", "select", "time", "coproc"})
_SPECIAL = re.compile(r"break|continue|eval|exec|exit|export|readonly|return|set|shift|source|times|trap|unset")
"""Names that no function may have."""


class Unreadable(Exception):
    """It is not complete: the lines behind it would be taken for a part of it."""


class Unsure(Exception):
    """Some shell may read it."""


def unreadable(text: str) -> str:
    """What makes the text incomplete for every shell; empty if nothing is known to."""
    try:
        read(text)
    except Unreadable as error:
        return str(error)
    except Unsure:
        return ""
    return ""


def read(text: str) -> None:
    """Reads complete commands; comments and blank lines are fine.

    :raises Unreadable: if they are not complete for any shell.
    :raises Unsure: if not every shell reads them, or it is not known.
    """
    if "\0" in text:
        raise Unreadable("has a NUL character")
    _Reader(text, 0).commands(frozenset({""}), empty=True)


class _Reader:
    """Reads a text from the left; each method takes the part it is named for, and raises if that is not there."""

    def __init__(self, text: str, depth: int) -> None:
        self.text = text
        self.at = 0
        self.depth = depth

    def commands(self, until: frozenset[str], *, empty: bool = False) -> str:
        """Commands up to one of the words or signs that may end them, which is taken too ("" is the end of the text)."""
        self._deeper()
        some = False
        while True:
            self._newlines()
            end = self._key(until) or self._end(until)
            if end is not None:
                if not (some or empty):
                    raise Unsure(f"has no command before {end or 'its end'}")
                self.depth -= 1
                return end
            self._and_or()
            some = True
            self._blanks()
            if self._sign() in {";", "&", "\n"}:
                self.at += 1
            elif (end := self._end(until)) is not None:
                self.depth -= 1
                return end
            else:
                raise self._unexpected(until)

    def _and_or(self) -> None:
        self._pipeline()
        while self._sign() in {"&&", "||"}:
            self.at += 2
            self._newlines()
            self._pipeline()

    def _pipeline(self) -> None:
        self._blanks()
        self._key(frozenset("!"))
        self._command()
        while self._sign() == "|":
            self.at += 1
            self._newlines()
            self._command()

    def _command(self) -> None:
        self._blanks()
        if not self._compound():
            self._simple()
        self._blanks()

    def _compound(self) -> bool:
        """A command with commands in it, and its redirections; False if there is none here."""
        if self._sign() == "(":
            if self.text.startswith("((", self.at):
                raise Unsure("has ((, which only bash reads")
            self.at += 1
            self.commands(frozenset(")"))
        else:
            match self._key(frozenset({"{", "if", "while", "until", "for", "case"})):
                case "{":
                    self.commands(frozenset("}"))
                case "if":
                    self._if()
                case "while" | "until":
                    self.commands(frozenset({"do"}))
                    self.commands(frozenset({"done"}))
                case "for":
                    self._for()
                case "case":
                    self._case()
                case _:
                    return False
        while self._redirection():
            pass
        return True

    def _if(self) -> None:
        end = "elif"
        while end == "elif":
            self.commands(frozenset({"then"}))
            end = self.commands(frozenset({"elif", "else", "fi"}))
        if end == "else":
            self.commands(frozenset({"fi"}))

    def _for(self) -> None:
        self._blanks()
        if not re.fullmatch(_NAME, self._word()):
            raise Unsure("has a for without the name of a variable")
        self._newlines()
        if self._key(frozenset({"in"})):
            self._blanks()
            while self._sign() not in {";", "\n"}:
                self._word()
                self._blanks()
        if self._sign() == ";":
            self.at += 1
        self._must("do")
        self.commands(frozenset({"done"}))

    def _case(self) -> None:
        self._blanks()
        self._word()
        self._must("in")
        end = ";;"
        while end != "esac":
            self._newlines()
            if self._key(frozenset({"esac"})):
                return
            if self._sign() == "(":
                self.at += 1
            self._pattern()
            while self._sign() == "|":
                self.at += 1
                self._pattern()
            if self._sign() != ")":
                raise Unsure("has a case with a pattern that no ) ends")
            self.at += 1
            end = self.commands(frozenset({";;", "esac"}), empty=True)

    def _pattern(self) -> None:
        self._blanks()
        if self._word() == "esac":
            raise Unsure("has esac where a pattern is expected")
        self._blanks()

    def _simple(self) -> None:
        """Assignments, a command and its words, redirections in between; or a function."""
        some = named = False
        while True:
            self._blanks()
            if self._redirection():
                some = True
                continue
            if self._sign() or self.at == len(self.text):
                break
            word = self._word()
            if not named and not _ASSIGNMENT.match(word):
                self._name(word)
                named = True
                self._blanks()
                if not some and self._sign() == "(":
                    self._function(word)
                    return
            some = True
        if not some:
            raise self._unexpected(frozenset())

    def _name(self, word: str) -> None:
        """What is asked of the word that names a command."""
        if word in _RESERVED:
            raise Unsure(f"has {word} where a command is expected")
        if word in _BASH_ONLY or _ELEMENT.match(word):
            raise Unsure(f"has {word}, which only bash reads")

    def _function(self, name: str) -> None:
        self.at += 1
        self._blanks()
        if self._sign() != ")" or not _FUNCTION.fullmatch(name) or _SPECIAL.fullmatch(name):
            raise Unsure("has a ( that is neither quoted nor part of a command for every shell")
        self.at += 1
        self._newlines()
        if not self._compound():
            raise Unsure(f"has a function {name} without a body in braces")

    def _redirection(self) -> bool:
        self._blanks()
        found = _REDIRECT.match(self.text, self.at)
        if found is None:
            return False
        if found[1] == "<<":
            raise Unsure("has a here-document, which is not a line of its own")
        self.at = found.end()
        self._blanks()
        word = self._word()
        if found[1] in {"<&", ">&"} and not re.fullmatch(r"[0-9]|-", word):
            raise Unsure(f"has {found[1]} without the number of a file")
        return True

    def _word(self) -> str:
        """A word as it is written, quotes and all."""
        start = self.at
        while self.at < len(self.text):
            if found := _PLAIN.match(self.text, self.at):
                self.at = found.end()
                continue
            match self.text[self.at]:
                case "'":
                    self._past("'")
                case '"':
                    self._double()
                case "\\":
                    if self.text[self.at + 1 : self.at + 2] in {"", "\n"}:
                        raise Unreadable("has a backslash at its end, which takes in the next line")
                    self.at += 2
                case "`":
                    self._backquoted(quoted=False)
                case "$":
                    self._dollar(quoted=False)
                case _:
                    break
        if self.at == start:
            raise self._unexpected(frozenset())
        word = self.text[start : self.at]
        if word.isdecimal() and self.text.startswith(("<", ">"), self.at):
            raise Unsure(f"has {word} before a redirection where no number of a file is expected")
        return word

    def _double(self) -> None:
        self.at += 1
        while self.at < len(self.text):
            if found := _DOUBLE.match(self.text, self.at):
                self.at = found.end()
                continue
            match self.text[self.at]:
                case '"':
                    self.at += 1
                    return
                case "\\":
                    self.at += 2
                case "`":
                    self._backquoted(quoted=True)
                case _:
                    self._dollar(quoted=True)
        raise Unreadable('has a quote " that is not closed')

    def _backquoted(self, *, quoted: bool) -> None:
        start = self.at + 1
        self._past("`")
        inner = self.text[start : self.at - 1]
        if "\\" in inner or (quoted and '"' in inner):
            raise Unsure("has quoting between backquotes that shells read in different ways: write $( )")
        try:
            _Reader(inner, self.depth).commands(frozenset({""}), empty=True)
        except Unreadable as error:
            # Bash does not look into it before it runs it.
            raise Unsure(str(error)) from None

    def _dollar(self, *, quoted: bool) -> None:
        rest = self.text[self.at + 1 : self.at + 3]
        if rest == "((":
            found = _ARITHMETIC.match(self.text, self.at)
            if found is None:
                raise Unsure("has an arithmetic expression $(( )) that is not closed, or not plain")
            self.at = found.end()
        elif rest[:1] == "(":
            self.at += 2
            self.commands(frozenset(")"), empty=True)
        elif rest[:1] == "{":
            self._braces(quoted=quoted)
        elif rest[:1] == "[":
            raise Unsure("has $[, which shells read in different ways")
        elif rest[:1] == "'" and not quoted:
            start = self.at
            self.at += 1
            self._past("'")
            if "\\" in self.text[start : self.at]:
                raise Unsure("has a backslash in $' ', which shells read in different ways")
        else:
            self.at += 2 if rest[:1] and rest[0] in "@*#?-$!" else 1

    def _braces(self, *, quoted: bool) -> None:
        if found := _WHOLE_BRACES.match(self.text, self.at):
            self.at = found.end()
            return
        found = _BRACES.match(self.text, self.at)
        if found is None:
            raise Unsure("has ${ that is not closed, or not in every shell")
        self._deeper()
        self.at = found.end()
        while self.at < len(self.text):
            if found := _BRACED.match(self.text, self.at):
                self.at = found.end()
                continue
            match self.text[self.at]:
                case "}":
                    self.at += 1
                    self.depth -= 1
                    return
                case "$":
                    self._dollar(quoted=quoted)
                case "'" if not quoted:
                    self._past("'")
                case '"' if not quoted:
                    self._double()
                case _:
                    raise Unsure("has quoting within ${ } that shells read in different ways")
        raise Unsure("has ${ that is not closed")

    def _past(self, quote: str) -> None:
        """Goes behind the next such quote after this one."""
        end = self.text.find(quote, self.at + 1)
        if end < 0:
            raise Unreadable(f"has a quote {quote} that is not closed")
        self.at = end + 1

    def _blanks(self) -> None:
        """Blanks, line ends that a backslash takes away, and a comment."""
        while True:
            if self.text.startswith((" ", "\t"), self.at):
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
                if self.at == len(self.text):
                    raise Unreadable("has a backslash at its end, which takes in the next line")
            else:
                break
        if self.text.startswith("#", self.at):
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end

    def _newlines(self) -> None:
        self._blanks()
        while self._sign() == "\n":
            self.at += 1
            self._blanks()

    def _sign(self) -> str:
        return next((sign for sign in _SIGNS if self.text.startswith(sign, self.at)), "")

    def _key(self, among: frozenset[str]) -> str | None:
        """One of these words, if it stands here unquoted."""
        found = _KEY.match(self.text, self.at)
        if found is None or found[1] not in among:
            return None
        self.at = found.end()
        return found[1]

    def _end(self, until: frozenset[str]) -> str | None:
        """A sign that ends the commands, or the end of the text where that does."""
        sign = self._sign()
        if sign not in until or (not sign and self.at < len(self.text)):
            return None
        self.at += len(sign)
        return sign

    def _must(self, word: str) -> None:
        self._newlines()
        if not self._key(frozenset({word})):
            raise Unsure(f"has no {word} where one is expected")

    def _unexpected(self, until: frozenset[str]) -> Unreadable | Unsure:
        if self.at < len(self.text):
            sign = self._sign() or self.text[self.at]
            if sign == "(":
                return Unsure("has a list in parentheses, which only bash reads")
            return Unsure(f"has {'a line end' if sign == chr(10) else sign} where none is expected")
        missing = " or ".join(sorted(until - {""}))
        return Unreadable(f"ends before {missing}") if missing else Unsure("ends before a command or word")

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unsure(f"has more than {DEEPEST} commands within commands")
