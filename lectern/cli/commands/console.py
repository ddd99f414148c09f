"""`lectern console`: a Python prompt with a connected client."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.syntax import Syntax

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.output import fail

EXAMPLES = """\
for model in client.list_models().models: print(model.name, model.title)
client.classify_image("cat.png", top_k=3).results[0].classes
card = client.get_model("covid_regressor").model.versions[0].card
client.act([0, 1.4, 0.3, -0.5, -0.1, 0.05, 0, 0]).results[0].label
client.predict(np.zeros((2, len(card["preprocessing"]["features"])))).results
"""


@command(ASK)
def console(connection: Connection) -> None:
    """Open IPython with a connected `client`, `grpc` and `np`.

    \b
    lectern console
    lectern console --target gpu-box:8001
    """
    try:
        from IPython import start_ipython
    except ImportError:
        fail("the console needs IPython: pip install ipython")
    import grpc
    import numpy as np

    with connection.client() as client:
        typer.echo(f"`client` is connected to {connection.target}; `help(client)` lists its methods. Try:\n")
        Console().print(Syntax(EXAMPLES, "python", background_color="default", word_wrap=True))
        start_ipython(argv=["--no-banner"], user_ns={"client": client, "grpc": grpc, "np": np})
