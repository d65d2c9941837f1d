"""`kpx cleanup`: take everything out that kpx ever put in; or, when asked for by name, what kube-proxy left."""

from __future__ import annotations

import contextlib

import click

from kpx import api
from kpx.agent import assemble
from kpx.cli.inputs import permission
from kpx.cli.options import DATAPLANE, config_options
from kpx.cli.output import note, waiting
from kpx.errors import KernelError
from kpx.host import accepting, kube_proxy_removal
from kpx.host.kube_proxy import find
from kpx.model.addresses import Family
from kpx.settings.config import Config


@click.command(short_help="Remove everything kpx owns in the kernel, and nothing else.")
@click.option("--kube-proxy", is_flag=True, help="Remove what kube-proxy left behind, and nothing of kpx. [default: no]")
@config_options(DATAPLANE)
@click.pass_context
def cleanup(ctx: click.Context, config: Config, kube_proxy: bool) -> None:
    """
    Remove everything kpx owns in the kernel, and nothing else.

    Prints each thing it removes; once everything is gone there is nothing to do and no error. Looks for every data plane
    unless --proxy-mode names one. Refuses while an agent runs in this network namespace (exit code 3), since that would
    put everything back.

    With --kube-proxy it removes what kube-proxy left behind in its place: iptables chains, ipsets, kube-ipvs0 and the
    virtual servers on its addresses, nftables tables. That refuses while kube-proxy runs, and may be done under a running agent.
    """
    ctx.exit(_clean_kube_proxy() if kube_proxy else _clean_own(config))


def _clean_own(config: Config) -> int:
    removed: list[str] = []
    with permission("writing"), waiting("removing"):
        for dataplane in assemble.dataplanes_to_clean(config):
            with contextlib.closing(dataplane):
                removed += api.cleanup(dataplane)
        removed += accepting.ensure(Family, ())
    for sentence in removed:
        click.echo(sentence)
    if not removed:
        note("nothing of kpx is in the kernel")
    return 0


def _clean_kube_proxy() -> int:
    kube_proxy_removal.refuse_while_running()
    with permission("writing"), waiting("removing"):
        found = find()
        done = kube_proxy_removal.remove(found)
    for sentence in done.removed:
        click.echo(sentence)
    for sentence in done.failed:
        note(f"not removed: {sentence}")
    for sentence in found.staying():
        note(f"left alone: {sentence}")
    if not done.removed and not done.failed:
        note("nothing of kube-proxy is in the kernel")
    return KernelError.exit_code if done.failed else 0
