"""How `manage.py webpubsub` is typed: a tree of sub-commands, with the options that many of them share.

The tree and the option names are those of `az webpubsub`. What only Azure has a use for, the resource
and its group, is accepted and ignored, so that a pasted command works.
"""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from django.core.management.base import CommandError, CommandParser

from hubs.management.cli.errors import Error
from hubs.management.cli.output import FORMATS, Output
from hubs.rules import names

Runner = Callable[[argparse.Namespace, Output], None]

_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")


class Grammar(CommandParser):
    """A parser that complains in one line, says what was probably meant, and keeps its examples' line breaks."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Complain, and end with exit code 2; raise when called by a program."""
        if self.called_from_command_line:
            self.exit(2, f"{self.prog}: {message}\nTo see how it is used: {self.prog} --help\n")
        raise CommandError(message, returncode=2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here, where it is known which command was meant."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"{unknown[0]} is not known here.{f' Did you mean {near[0]}?' if near else ''}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse lists what it would have taken; fingers that slipped want the nearest one.
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value).lower(), choices, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose from: {', '.join(choices)}."
        what = "a command here" if isinstance(action, argparse._SubParsersAction) else "one of its values"
        raise argparse.ArgumentError(action, f"{value!r} is not {what}. {hint}")


class Branch:
    """One group of commands, such as `webpubsub key`; a group in a group, such as `service group`, is one as well."""

    def __init__(self, tree: Any, name: str, summary: str, *, within: str = "") -> None:
        self.name = f"{within} {name}".strip()
        parser = tree.add_parser(name, help=summary, description=summary)
        self.commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def branch(self, name: str, summary: str) -> Branch:
        """Add a group of commands within this one."""
        return Branch(self.commands, name, summary, within=self.name)

    def command(self, name: str, run: Runner, summary: str, *, details: str = "", examples: Sequence[str] = ()) -> Any:
        """Add a command and give its parser, to which the caller adds what it takes."""
        shown = "\n".join(f"  manage.py webpubsub {self.name} {name} {example}".rstrip() for example in examples)
        parser = self.commands.add_parser(
            name,
            help=summary,
            description=textwrap.fill(f"{summary}.{f' {details}' if details else ''}", 100),
            epilog=f"examples:\n{shown}" if examples else None,
        )
        parser.set_defaults(run=run, fail=parser.error)
        return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Let the caller choose how results are printed."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", "-o", choices=FORMATS, default="table", help="table for people (default), json or tsv for programs"
    )
    group.add_argument(
        "--query", metavar="JMESPATH", help="print only what this JMESPath expression picks from the JSON"
    )


def add_azure_resource(parser: argparse.ArgumentParser, *, name: bool = True) -> None:
    """Accept how Azure's tool names a resource. There is one service here, so it is ignored."""
    group = parser.add_argument_group("accepted and ignored, as in commands written for Azure")
    group.add_argument("--resource-group", "-g", metavar="GROUP", help="a resource group")
    group.add_argument("--subscription", metavar="ID", help="a subscription")
    if name:
        group.add_argument("--name", "-n", metavar="NAME", dest="resource", help="the name of a resource")


def add_hub(parser: argparse.ArgumentParser) -> None:
    """Let the caller name the one hub the command is about, in any of the ways people try."""
    parser.add_argument("hub_word", nargs="?", metavar="HUB", help="the hub; or give --hub-name")
    parser.add_argument("--hub-name", "--hub", metavar="HUB", help="the hub")
    parser.add_argument(
        "--name",
        "-n",
        metavar="NAME",
        dest="resource",
        help="the hub too; beside --hub-name or --resource-group it is Azure's resource, and ignored",
    )


def chosen_hub(options: argparse.Namespace) -> str:
    """Give the hub that `add_hub`'s options name, in its one spelling. Raises Error, or ends with a usage message."""
    named = [name for name in (options.hub_word, options.hub_name) if name is not None]
    if not named and options.resource is not None and options.resource_group is None:
        named = [options.resource]
    if not named:
        fail_usage(options, "name the hub: --hub-name HUB")
    if len({names.canonical_hub(name) for name in named}) > 1:
        fail_usage(options, f"two hubs are named: {' and '.join(named)}")
    return hub_name(named[0])


def hub_name(name: str) -> str:
    """Give a hub name in its one spelling, or raise Error."""
    if not names.is_hub_name(name):
        raise Error(
            f"{name!r} cannot be the name of a hub: start with a letter, then use at most 127 letters, digits or "
            "_ ` , . [ ] characters."
        )
    return names.canonical_hub(name)


def add_flag(parser: argparse.ArgumentParser, option: str, meaning: str) -> None:
    """Add an option of three states: true, false, not given. The bare option means true, as in Azure's tool."""
    parser.add_argument(option, nargs="?", const=True, type=true_or_false, metavar="true|false", help=meaning)


def true_or_false(text: str) -> bool:
    """Read a flag's value in any of the ways people write it. Raises ArgumentTypeError."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"write true or false, not {text!r}")


def fail_usage(options: argparse.Namespace, message: str) -> NoReturn:
    """End with a usage message of the command that was typed (exit code 2)."""
    options.fail(message)
    raise AssertionError("argparse ends the process or raises")  # pragma: no cover
