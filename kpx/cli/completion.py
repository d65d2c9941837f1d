"""`kpx completion`: click knows how shells complete; this verb makes its script findable."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print the shell completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print the shell completion script.

    SHELL is bash, zsh or fish. For bash: kpx completion bash > /etc/bash_completion.d/kpx. For zsh: kpx completion zsh >
    a file named _kpx in a directory of $fpath. For fish: kpx completion fish > ~/.config/fish/completions/kpx.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(ctx.find_root().command, {}, "kpx", "_KPX_COMPLETE").source())
