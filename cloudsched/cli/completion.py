"""What could be typed next? Completion scripts for bash, zsh and fish, made from the parser itself."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from cloudsched.cli.commands import EXIT_OK, build_parser

SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "DIR", "FILE.sub", "FILE[:NAME]", "FILE|-", "K=FILE")

_HOW = """\
bash:  cloudsched completion bash > ~/.local/share/bash-completion/completions/cloudsched
zsh:   cloudsched completion zsh > "${fpath[1]}/_cloudsched"
fish:  cloudsched completion fish > ~/.config/fish/completions/cloudsched.fish
"""


class Word(NamedTuple):
    """A thing that can be typed: `text`, what it means, and for an option what its value may be.

    `values`: None takes no value, `()` any word, `("<file>",)` a file.
    """

    text: str
    meaning: str
    values: tuple[str, ...] | None


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    parser.set_defaults(run=run_completion)
    parser.epilog = _HOW
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run_completion(args: argparse.Namespace) -> int:
    print(script(args.shell), end="")
    return EXIT_OK


def script(shell: str) -> str:
    """The completion script of one shell."""
    tree = dict(_tree(build_parser(), ()))
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](tree)


Tree = dict[tuple[str, ...], list[Word]]


def _tree(
    parser: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[Word]]]:
    """Every place of the command line (`()`, `("jobs",)`, `("jobs", "list")`) with the words possible there."""
    words: list[Word] = []
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            meanings = {one.dest: one.help or "" for one in action._choices_actions}
            words += [Word(name, meanings.get(name, ""), None) for name in action.choices]
            below += list(action.choices.items())
        elif action.option_strings:
            words += [Word(text, _meaning(action), _values(action)) for text in action.option_strings]
        elif action.choices:
            words += [Word(str(choice), "", None) for choice in action.choices]
    yield path, words
    for name, inner in below:
        yield from _tree(inner, (*path, name))


def _values(action: argparse.Action) -> tuple[str, ...] | None:
    if action.nargs == 0:
        return None
    if action.choices:
        return tuple(map(str, action.choices))
    return ("<file>",) if action.metavar in _FILES else ()


def _meaning(action: argparse.Action) -> str:
    return "" if action.help in (None, argparse.SUPPRESS) else str(action.help).replace("%%", "%")


def _bash(tree: Tree) -> str:
    """One case per place; the place is found by walking over the words that are typed already."""
    lines = [
        "# bash completion of cloudsched; made by: cloudsched completion bash",
        "_cloudsched() {",
        '    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} place="" word i words=""',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        "        word=${COMP_WORDS[i]}",
        '        case "$place/$word" in',
        "            "
        + "|".join(_quoted("/".join(("", *path))) for path in tree if path)
        + ') place="$place/$word" ;;',
        "        esac",
        "    done",
        '    case "$place $prev" in',
    ]
    for path, words in tree.items():
        for word in words:
            if word.values is not None:
                lines.append(
                    f"        {_quoted('/'.join(('', *path)) if path else '', word.text)}) {_bash_value(word)} ;;"
                )
    lines += ["    esac", '    case "$place" in']
    for path, words in tree.items():
        texts = " ".join(word.text for word in words)
        lines.append(
            f"        {_quoted('/'.join(('', *path)) if path else '')}) words={shlex.quote(texts)} ;;"
        )
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        '    [[ ${#COMPREPLY[@]} -eq 0 && $cur != -* ]] && COMPREPLY=($(compgen -f -- "$cur"))',
        "    return 0",
        "}",
        "complete -F _cloudsched cloudsched",
    ]
    return "\n".join(lines) + "\n"


def _quoted(*parts: str) -> str:
    return '"' + " ".join(parts) + '"'


def _bash_value(word: Word) -> str:
    if word.values == ("<file>",):
        return 'COMPREPLY=($(compgen -f -- "$cur")); return 0'
    return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(word.values or ()))} -- "$cur")); return 0'


def _zsh(tree: Tree) -> str:
    lines = [
        "#compdef cloudsched",
        "# zsh completion of cloudsched; made by: cloudsched completion zsh",
        "_cloudsched() {",
        '    local place="" word i',
        "    local -a found",
        "    for ((i = 2; i < CURRENT; i++)); do",
        "        word=${words[i]}",
        '        case "$place/$word" in',
        "            ("
        + "|".join("/".join(("", *path)) for path in tree if path)
        + ') place="$place/$word" ;;',
        "        esac",
        "    done",
        '    case "$place ${words[CURRENT-1]}" in',
    ]
    for path, words in tree.items():
        for word in words:
            if word.values is not None:
                place = "/".join(("", *path)) if path else ""
                lines.append(f"        ({_quoted(place, word.text)}) {_zsh_value(word)}; return ;;")
    lines += ["    esac", '    case "$place" in']
    for path, words in tree.items():
        described = " ".join(shlex.quote(_described(word)) for word in words)
        lines.append(f"        ({_quoted('/'.join(('', *path)) if path else '')}) found=({described}) ;;")
    lines += [
        "    esac",
        "    _describe cloudsched found || _files",
        "}",
        'if [[ "$funcstack[1]" == "_cloudsched" ]]; then _cloudsched "$@"; else compdef _cloudsched cloudsched; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_value(word: Word) -> str:
    if word.values == ("<file>",):
        return "_files"
    return f"compadd -- {' '.join(map(shlex.quote, word.values))}" if word.values else "_message value"


def _described(word: Word) -> str:
    text = word.text.replace(":", "\\:")
    return f"{text}:{word.meaning}" if word.meaning else text


def _fish(tree: Tree) -> str:
    lines = ["# fish completion of cloudsched; made by: cloudsched completion fish", _FISH_PLACE]
    lines.append("complete -c cloudsched -f")
    places = " ".join(shlex.quote("/".join(path)) for path in tree if path)
    lines.insert(2, f"set -g __cloudsched_places {places}")
    for path, words in tree.items():
        condition = shlex.quote(f"test (__cloudsched_place) = '{'/'.join(path)}'")
        lines += [f"complete -c cloudsched -n {condition} {_fish_word(word)}" for word in words]
    return "\n".join(lines) + "\n"


def _fish_word(word: Word) -> str:
    meaning = f" -d {_fish_quote(word.meaning)}" if word.meaning else ""
    if not word.text.startswith("-"):
        return f"-a {_fish_quote(word.text)}{meaning}"
    option = f"-l {word.text[2:]}" if word.text.startswith("--") else f"-s {word.text[1:]}"
    if word.values is None:
        return option + meaning
    if word.values == ("<file>",):
        return f"{option} -r -F{meaning}"
    return f"{option} -x" + (f" -a {_fish_quote(' '.join(word.values))}" if word.values else "") + meaning


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_FISH_PLACE = """\
function __cloudsched_place
    set -l place
    for word in (commandline -opc)[2..-1]
        set -l longer (string join / $place $word)
        contains -- $longer $__cloudsched_places; and set place $longer
    end
    echo -n $place
end"""
