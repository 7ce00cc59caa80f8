"""Accounting of a virtual cluster: slurmdbd on a MariaDB of its own, so that `sacct` and `sacctmgr` work.

The database lies in the cluster's folder, where nobody else may look, and listens on a socket there alone;
an installed database is not touched.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from dhhpc.batch.virtual_cluster.daemons import SEARCH_PATH, Daemons
from dhhpc.errors import DhhpcError

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults", "sacct", "sacctmgr")
# On Debian these bring the programs without a database service of the machine.
PACKAGES = "slurmdbd, mariadb-server-core and mariadb-client-core"
ACCOUNT = "virtual"
# For the records of a few jobs; by default they would be some hundred megabytes.
SMALL = ("--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M")
# It is thrown away with the cluster: nothing has to survive a power cut.
UNSAFE = (
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--debug-no-sync",
)


def missing_programs() -> list[str]:
    """The programs that accounting needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


def start_accounting(folder: Path, daemons: Daemons, run: Callable[..., str]) -> None:
    """Start the database and slurmdbd, and make the account `virtual` for the user.

    Args:
        run: runs one of SLURM's commands; what it prints.

    Raises:
        DhhpcError: one of them does not come up; names its log.
    """
    private = folder / "database"
    private.mkdir(mode=0o700)
    user = getpass.getuser()
    # mariadbd does not run as root unless told so.
    as_user = [f"--user={user}"] if os.geteuid() == 0 else []
    options = ["--no-defaults", f"--datadir={private / 'data'}", *as_user, *SMALL, *UNSAFE]
    install_database(folder, user, options)
    database_socket = private / "socket"
    daemons.start(
        "mariadbd",
        "mariadbd",
        *options,
        f"--socket={database_socket}",
        f"--pid-file={private / 'pid'}",
        f"--log-error={folder / 'mariadbd.log'}",
        "--skip-networking",
        "--skip-log-bin",
    )
    daemons.wait_until("mariadbd", database_socket.exists)
    # Where MariaDB's client library looks for the server called localhost.
    daemons.environment["MYSQL_UNIX_PORT"] = str(database_socket)
    daemons.start("slurmdbd", "slurmdbd", "-D")
    # The user root is in every accounting database, even of an empty cluster.
    daemons.wait_until(
        "slurmdbd", lambda: "root" in run("sacctmgr", "--noheader", "list", "user", "format=User").split()
    )
    run("sacctmgr", "--immediate", "add", "cluster", "virtual")
    run("sacctmgr", "--immediate", "add", "account", ACCOUNT, "cluster=virtual")
    run("sacctmgr", "--immediate", "add", "user", user, f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}")


def install_database(folder: Path, user: str, options: list[str]) -> None:
    """Make an empty database, to which `user` is let in by the operating system's word."""
    program = shutil.which("mariadb-install-db", path=SEARCH_PATH)
    assert program is not None  # missing_programs() has looked
    done = subprocess.run(
        [
            program,
            *options,
            "--auth-root-authentication-method=socket",
            f"--auth-root-socket-user={user}",
            "--skip-test-db",
            "--skip-name-resolve",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it says nothing"]
        raise DhhpcError(f"virtual cluster: mariadb-install-db: {said[-1]}; or start it with --no-accounting")
