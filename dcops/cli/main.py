"""The `dcops` command: what it can do, and nothing loaded before it is asked for."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dcops.cli import simulate

app = typer.Typer(
    help="Monitor and control a data center of GPUs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
node = typer.Typer(help="The machines of the fleet.", no_args_is_help=True)
app.add_typer(node, name="node")
app.command("simulate")(simulate.command)

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="DCOPS_DATA_DIR", help="Where this dcops keeps everything."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_HERE = Path(".dcops")
_PASS_ALL = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main() -> None:
    """Run the command line; what cannot go on ends with one sentence and status 1."""
    from dcops.env import SettingError
    from dcops.local.errors import LocalError

    try:
        app()
    except (LocalError, SettingError) as error:
        sys.exit(f"dcops: {error}")


@app.command()
def up(
    data_dir: DataDir = _HERE,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port of the pages and the agents.")
    ] = 8000,
    bind: Annotated[
        str,
        typer.Option(help="Listen beyond this machine, with TLS: an address, or 0.0.0.0 for all."),
    ] = "",
    demo: Annotated[bool, typer.Option("--demo", help="Add a simulated hall.")] = False,
    demo_nodes: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    demo_gpus_per_node: Annotated[int, typer.Option(min=1, max=16)] = 8,
    agent: Annotated[bool, typer.Option(help="Run the node agent of this machine too.")] = True,
) -> None:
    """Start dcops on this machine: database, pages, workers and this machine's agent. Ctrl-C ends it."""
    from dcops.local.up import Hall, Options, up

    hall = Hall(demo_nodes, demo_gpus_per_node) if demo else None
    options = Options(data_dir=data_dir, port=port, bind=bind or None, hall=hall, agent=agent)
    raise typer.Exit(up(options, lambda line: typer.echo(line)))


@app.command()
def migrate() -> None:
    """Bring the database of DCOPS_OWNER_DATABASE_URL to this version's schema. `dcops up` does it by itself."""
    from dcops.local import schema

    schema.set_up_django_as_owner()
    schema.migrate()


@app.command("setup-link")
def setup_link(data_dir: DataDir = _HERE, as_json: AsJson = False) -> None:
    """Print a one-time link that makes an administrator."""
    _use_instance(data_dir)
    from django.conf import settings

    from dcops import clock
    from dcops.access.actions import create_setup_link
    from dcops.access.actor import cli

    link = settings.PUBLIC_URL + create_setup_link(cli(_user()), now=clock.now())
    _print({"url": link}, as_json, link)


@node.command()
def token(
    data_dir: DataDir = _HERE,
    name: Annotated[
        str,
        typer.Option(help="The name the node gets; naming an existing node gives it a new key."),
    ] = "",
    ttl: Annotated[int, typer.Option(min=1, help="How long the token works, in seconds.")] = 300,
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve the node as it joins.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a short-lived token with which one machine joins, and the command to run there."""
    _use_instance(data_dir)
    from django.conf import settings

    from dcops import clock
    from dcops.access.actor import cli
    from dcops.domain.errors import Refused
    from dcops.fleet.actions import create_join_token
    from dcops.local.errors import LocalError

    try:
        text = create_join_token(
            cli(_user()), ttl_s=ttl, node_name=name or None, auto_approve=approve, now=clock.now()
        )
    except Refused as error:
        raise LocalError(str(error)) from None
    command = f"dcops-agent join --server {settings.PUBLIC_URL} --token {text}"
    _print({"token": text, "server": settings.PUBLIC_URL, "command": command}, as_json, command)


@app.command()
def backup(
    file: Annotated[
        Path | None, typer.Argument(help="Default: a new file in the data directory's backups/.")
    ] = None,
    data_dir: DataDir = _HERE,
    key_file: Annotated[
        Path | None,
        typer.Option(help="The key; made where it is missing. Keep it apart from the backups."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an encrypted, checked backup of the database."""
    from dcops import clock
    from dcops.local import backup as backups

    instance, now = _instance(data_dir), clock.now()
    path = file or instance.backup_dir / f"{now:%Y%m%dT%H%M%SZ}.dcops"
    with _database_owner(data_dir) as owner_url:
        done = backups.write(
            owner_url,
            path,
            key_file or instance.backup_key,
            now=now,
            server_key_file=_server_key_file(data_dir),
        )
    _print(
        {"file": str(path), "bytes": done.size_bytes, "sha256": done.sha256},
        as_json,
        f"{path}: {done.size_bytes} bytes, sha256 {done.sha256}\nIts key is {key_file or instance.backup_key}; without it the backup cannot be read.",
    )


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file written by `dcops backup`.")],
    data_dir: DataDir = _HERE,
    key_file: Annotated[
        Path | None, typer.Option(help="The key the backup was written with.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before the database is replaced.")
    ] = False,
) -> None:
    """Replace the database by a backup. The whole file is checked before anything is touched; dcops must not be running."""
    from dcops.local import backup as backups

    found = backups.verify(file, key_file or _instance(data_dir).backup_key)
    typer.echo(f"{file} is whole: made {found.made_at} of database {found.database}.")
    if not yes:
        typer.confirm("Replace the present database by it?", abort=True)
    with _database_owner(data_dir, alone=True) as owner_url:
        backups.restore(owner_url, file, key_file or _instance(data_dir).backup_key)
    backups.restore_identity(found, _server_key_file(data_dir))
    typer.echo("Restored. Start dcops again.")


@app.command()
def secrets(
    host: Annotated[
        str, typer.Option(help="The name under which people and nodes reach this dcops.")
    ],
    directory: Annotated[
        Path, typer.Argument(help="Where docker-compose.yml looks for them.")
    ] = Path("secrets"),
) -> None:
    """Make the secrets and the certificate of docker-compose.yml."""
    from dcops import clock
    from dcops.local import deployment

    deployment.write_secrets(directory, host, now=clock.now())
    typer.echo(
        f"Wrote {directory}/. Back it up: with it goes every password, and the authority {directory}/ca.pem."
    )
    if deployment.write_env(directory.absolute().parent / ".env", host):
        typer.echo("Wrote .env. Now: docker compose up --build --detach")


@app.command(context_settings=_PASS_ALL)
def agent(context: typer.Context) -> None:
    """The node agent (dcops-agent): join, run, doctor, once."""
    from dcops.local.instance import program

    os.execv(program("dcops-agent"), ["dcops-agent", *context.args])  # noqa: S606 - our own program


@app.command(context_settings=_PASS_ALL)
def demo(context: typer.Context) -> None:
    """A simulated hall of GPU nodes that joins a running dcops."""
    os.execv(sys.executable, [sys.executable, "-m", "agents.sim", *context.args])  # noqa: S606 - our own program


def _instance(data_dir: Path) -> Any:
    from dcops.local.instance import Instance

    return Instance(data_dir)


def _server_key_file(data_dir: Path) -> Path:
    return Path(os.environ.get("DCOPS_SERVER_KEY_FILE", data_dir / "server-key.pem"))


def _use_instance(data_dir: Path) -> None:
    """Set Django up against the outside servers of the environment, or the running embedded ones of the data directory."""
    if "DCOPS_DATABASE_URL" not in os.environ and "DCOPS_DATABASE_URL_FILE" not in os.environ:
        instance = _instance(data_dir)
        os.environ.update(instance.server_environment(instance.attached_urls()))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
    import django
    import psycopg

    from dcops.env import env_str
    from dcops.local.errors import LocalError

    try:
        psycopg.connect(env_str("DCOPS_DATABASE_URL"), connect_timeout=5).close()
    except psycopg.OperationalError:
        raise LocalError("The database does not answer. Start dcops first: make up") from None
    django.setup()


def _database_owner(data_dir: Path, *, alone: bool = False) -> Any:
    from dcops.local.ownership import database_owner

    return database_owner(data_dir, alone=alone)


def _user() -> str:
    import getpass

    return getpass.getuser()


def _print(data: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(data) if as_json else text)


if __name__ == "__main__":
    main()
