"""A backup gives back exactly what it took, and anything less than a whole one is refused before a row is touched."""

from datetime import UTC, datetime

import psycopg
import pytest

from dcops.local import backup
from dcops.local.errors import LocalError

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ROWS = 30_000  # more than two pieces once compressed


@pytest.fixture
def source(servers, worker_name):
    """A database with rows that do not compress, some of them the app may not touch."""
    name = f"backup_{worker_name}"
    urls = servers.fresh_database(name)
    with psycopg.connect(urls.owner) as owner:
        owner.execute("CREATE TABLE numbers (id int PRIMARY KEY, noise text)")
        owner.execute("REVOKE UPDATE ON numbers FROM dcops_app")
        owner.execute(
            "INSERT INTO numbers SELECT n, sha256(n::text::bytea)::text || sha256((-n)::text::bytea)::text FROM generate_series(1, %s) n",
            [ROWS],
        )
    yield urls
    servers.postgres.drop_database(name)


@pytest.fixture
def written(source, tmp_path):
    key = tmp_path / "keys" / "backup.key"
    key.parent.mkdir()
    done = backup.write(source.owner, tmp_path / "one.dcops", key, now=NOW)
    assert done.size_bytes > 2 * backup.PIECE_BYTES
    return done.path, key


def _state(urls):
    with psycopg.connect(urls.owner) as owner:
        return owner.execute(
            "SELECT count(*), md5(string_agg(noise, ',' ORDER BY id)) FROM numbers"
        ).fetchone()


def test_a_restore_brings_back_rows_rights_and_functions(source, written):
    path, key = written
    before = _state(source)
    with psycopg.connect(source.owner) as owner:
        owner.execute("DELETE FROM numbers WHERE id % 2 = 0")
        owner.execute("CREATE TABLE younger (a int)")
        tables = owner.execute(
            "SELECT count(*) FROM pg_tables WHERE tableowner = 'dcops_owner'"
        ).fetchone()[0]
    backup.restore(source.owner, path, key)
    assert _state(source) == before
    with psycopg.connect(source.app) as app:
        assert app.execute("SELECT to_regclass('younger')").fetchone() == (None,)
        assert (
            app.execute(
                "SELECT count(*) FROM pg_tables WHERE tableowner = 'dcops_owner'"
            ).fetchone()[0]
            == tables - 1
        )
        assert app.execute("SELECT count(*) FROM django_migrations").fetchone()[0] > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("UPDATE numbers SET noise = ''")
    with psycopg.connect(source.owner) as owner:
        owner.execute("CREATE TABLE later (a int)")
    with psycopg.connect(source.app) as app:
        app.execute("INSERT INTO later VALUES (1)")  # the default rights came back too


def _flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "a flipped bit in the header": lambda data: _flip(data, 20),
    "a flipped bit in the middle": lambda data: _flip(data, len(data) // 2),
    "a flipped bit in the manifest": lambda data: _flip(data, len(data) - 5),
    "cut in a piece": lambda data: data[: len(data) // 2],
    "cut of the last byte": lambda data: data[:-1],
    "one byte too many": lambda data: data + b"x",
    "empty": lambda data: b"",
    "no magic": lambda data: b"X" + data[1:],
    "the first piece twice": lambda data: _with_pieces(data, lambda pieces: [pieces[0], *pieces]),
    "two pieces swapped": lambda data: _with_pieces(
        data, lambda pieces: [pieces[1], pieces[0], *pieces[2:]]
    ),
    "a piece missing": lambda data: _with_pieces(data, lambda pieces: pieces[1:]),
    "a piece passed off as the manifest": lambda data: _with_pieces(
        data, lambda pieces: [pieces[0], bytes([pieces[1][0] | 0x80]) + pieces[1][1:]]
    ),
    "the manifest missing": lambda data: _with_pieces(data, lambda pieces: pieces[:-1]),
}


def _with_pieces(data, change):
    start = len(backup.MAGIC)
    body = start + 4 + int.from_bytes(data[start : start + 4], "big")
    pieces, at = [], body
    while at < len(data):
        end = at + 4 + (int.from_bytes(data[at : at + 4], "big") & 0x7FFFFFFF)
        pieces.append(data[at:end])
        at = end
    return data[:body] + b"".join(change(pieces))


def _refusal(action):
    try:
        action()
    except LocalError as error:
        return str(error)
    return "no refusal"


def test_a_damaged_backup_is_refused_with_a_sentence_and_nothing_is_touched(source, written):
    path, key = written
    whole, before = path.read_bytes(), _state(source)
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        refusal = _refusal(lambda: backup.restore(source.owner, path, key))
        assert "damaged" in refusal or "no backup" in refusal, name
    assert _state(source) == before


def test_another_key_is_refused(source, written, tmp_path):
    path, _ = written
    other = tmp_path / "other.key"
    other.write_text("ab" * 32)
    with pytest.raises(LocalError, match="another key"):
        backup.restore(source.owner, path, other)
    with pytest.raises(LocalError, match="cannot be read"):
        backup.restore(source.owner, path, tmp_path / "none.key")
    assert _state(source)[0] == ROWS


def test_the_file_shows_nothing_of_its_contents_and_only_its_owner_reads_it(source, tmp_path):
    with psycopg.connect(source.owner) as owner:
        owner.execute("CREATE TABLE canary (secret text)")
        owner.execute("INSERT INTO canary VALUES ('canary-in-the-coal-mine')")
    done = backup.write(source.owner, tmp_path / "two.dcops", tmp_path / "key", now=NOW)
    content = done.path.read_bytes()
    assert b"canary" not in content
    assert b"django" not in content
    assert done.path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_a_restore_that_fails_half_way_leaves_the_database_as_it_was(
    source, tmp_path, written, monkeypatch
):
    path, key = written
    before = _state(source)
    real = backup._pieces

    def broken(file, key, path):
        for number, piece in enumerate(real(file, key, path)):
            if number == 2:
                raise OSError("the disk is gone")
            yield piece

    monkeypatch.setattr(backup, "verify", lambda *arguments: None)
    monkeypatch.setattr(backup, "_pieces", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        backup.restore(source.owner, path, key)
    assert _state(source) == before


def test_a_failed_dump_leaves_no_file(source, tmp_path):
    nowhere = psycopg.conninfo.make_conninfo(source.owner, dbname="no_such_database")
    with pytest.raises(LocalError, match="could not be dumped"):
        backup.write(nowhere, tmp_path / "three.dcops", tmp_path / "key", now=NOW)
    assert {entry.name for entry in tmp_path.iterdir()} == {"key"}


def test_the_servers_identity_travels_with_the_backup(source, tmp_path):
    identity = tmp_path / "server-key.pem"
    identity.write_text("the old identity")
    done = backup.write(
        source.owner, tmp_path / "four.dcops", tmp_path / "key", now=NOW, server_key_file=identity
    )
    identity.write_text("a new identity")
    found = backup.verify(done.path, tmp_path / "key")
    backup.restore_identity(found, identity)
    assert identity.read_text() == "the old identity"
    assert (tmp_path / "server-key.pem.before-restore").read_text() == "a new identity"
    assert found.made_at == NOW.isoformat()
