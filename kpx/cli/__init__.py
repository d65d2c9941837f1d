"""
The command line: a table of verbs, one module each, none with logic of its own.

In: flags, KPX_ variables, files. Out: answers on stdout, diagnostics on stderr, exit codes (docs/cli.md).
Never: a decision that `kpx.api` does not offer to programs too.
Review: does every verb and option have help and a section in docs/cli.md? Does a failure say what to do, in one line?
"""

from __future__ import annotations

import click

import kpx
from kpx.cli.group import VerbGroup

VERBS = {
    "run": "Keep the kernel equal to the manifests until stopped.",
    "sync": "Make the kernel equal to the manifests once, and say what was written.",
    "get": "Show what the kernel holds now.",
    "explain": "Tell what would happen to a packet, step by step, and why.",
    "diff": "Show what differs between the manifests and the kernel.",
    "check": "Tell whether this host can run kpx, and what to do if not.",
    "migrate": "Tell what the configuration of kube-proxy becomes, and what will differ.",
    "cleanup": "Remove everything kpx owns in the kernel, and nothing else.",
    "completion": "Print the shell completion script.",
}
"""Each verb and the first line of its help."""


@click.group(cls=VerbGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(kpx.__version__, "--version", "-V", prog_name="kpx", message="%(prog)s %(version)s")
def main() -> None:
    """
    Forward Service traffic on this node, and say why a packet goes where it goes.

    kpx reads Kubernetes Services and EndpointSlices from a directory of manifests and keeps the kernel's nftables
    rows equal to them. Every option is also read from the environment, as KPX_ and its name in capitals.

    Exit codes: 0 done or equal, 1 differences found, 2 wrong use or input, 3 another agent runs, 4 the host or the
    permissions lack something, 5 the kernel refused something.
    """
