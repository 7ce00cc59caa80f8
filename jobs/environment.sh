#!/usr/bin/env bash
# Sourced by jobs/quickstart.sh and tests/run.sh: prepares the checkout's own Python environment, once.
#
# prepare_environment EXTRAS   makes .venv beside pyproject.toml, installs dhhpc there (editable, with these extras:
#                              "", "test" or "test,bench"), and chooses an MPI: the machine's own when it works, else
#                              one from pip.
#
# Afterwards $python is the environment's Python and $mpiexec the mpiexec that fits its mpi4py. A stamp in .venv
# makes later calls instant; it names pyproject.toml's content, so a changed requirement installs again.

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
environment=$checkout/.venv
python=$environment/bin/python
mpiexec=

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

prepare_environment() {
    # One installation at a time: a second script started meanwhile waits here and then finds it done.
    if command -v flock > /dev/null; then
        exec 9< "$checkout"
        flock 9
    fi
    # The first Open MPI setting pair lets root start ranks (containers); the others more ranks than cores.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none

    local extras=$1 machine_mpi stamp key
    machine_mpi=$(find_machine_mpi)
    stamp=$environment/.dhhpc-installed${extras:+-$extras}
    key="$(sha256sum < "$checkout/pyproject.toml") $checkout ${machine_mpi:-none}"
    if [[ -x $python && -f $stamp && $(head -n 1 -- "$stamp") == "$key" ]]; then
        mpiexec=$(tail -n 1 -- "$stamp")
    else
        make_environment
        install_packages "$extras" "$machine_mpi"
        printf '%s\n%s\n' "$key" "$mpiexec" > "$stamp"
    fi
    if command -v flock > /dev/null; then exec 9<&-; fi
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        # Run it: version managers leave names on PATH that start nothing.
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found on PATH (python3, python3.13, python3.12, python3.11): install one"
}

can_use_apt() { [[ $(id -u) == 0 ]] && command -v apt-get > /dev/null; }

apt_install() {
    local -x DEBIAN_FRONTEND=noninteractive
    apt-get update -qq < /dev/null >&2 &&
        apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" < /dev/null >&2
}

make_environment() {
    if [[ -x $python ]] && "$python" -m pip --version > /dev/null 2>&1; then
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
            fail "$environment holds $("$python" --version), dhhpc needs 3.11 to 3.13: remove that folder"
        return
    fi
    local base version
    base=$(find_python)
    version=$("$base" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    say "making a Python environment in $environment with $base ($("$base" --version))"
    # Debian and Ubuntu keep ensurepip, which venv needs to put pip in, in a package of its own.
    if ! "$base" -c 'import ensurepip, venv' 2> /dev/null && can_use_apt; then
        say "installing $version-venv with apt"
        apt_install "$version-venv" || say "apt could not install $version-venv"
    fi
    if "$base" -c 'import ensurepip, venv' 2> /dev/null; then
        "$base" -m venv --clear "$environment" || fail "$environment: cannot be made; see above"
    elif "$base" -m pip --version > /dev/null 2>&1; then
        # Without ensurepip, another pip (22.3 or later) can fill the environment from outside.
        { "$base" -m venv --clear --without-pip "$environment" &&
            "$base" -m pip --python "$python" install --quiet pip; } ||
            fail "$environment: cannot be made without ensurepip; install the package $version-venv"
    else
        fail "$base has neither ensurepip nor pip: install the package $version-venv (apt) or $version-pip (dnf)"
    fi
}

# The mpiexec of an MPI on PATH outside the environment, or its mpicc when there is no mpiexec; nothing without one.
find_machine_mpi() {
    local name found
    for name in mpiexec mpicc; do
        while IFS= read -r found; do
            if [[ $found != "$environment"/* ]]; then
                printf '%s\n' "$found"
                return
            fi
        done < <(type -a -P "$name" || true)
    done
}

pip_install() { "$python" -m pip install --quiet --disable-pip-version-check "$@"; }

install_packages() {
    local extras=$1 machine_mpi=$2
    say "installing dhhpc and its libraries into $environment (once; a few minutes)"
    pip_install --editable "$checkout${extras:+[$extras]}" || fail "pip could not install dhhpc[$extras]; see above"
    if [[ -n $machine_mpi ]] && use_machine_mpi "$machine_mpi"; then return; fi
    use_pip_mpi
}

use_machine_mpi() {
    local found=$1 compiler
    mpiexec=$found
    if [[ ${found##*/} == mpicc ]]; then
        say "found $found but no mpiexec beside it: taking MPICH from pip"
        return 1
    fi
    "$python" -m pip uninstall --quiet --yes mpich 2> /dev/null || true
    # From wheels first: these look for the machine's libmpi when they are loaded.
    if pip_install 'mpi4py>=4.1' && two_ranks_meet; then
        say "using the MPI found on this machine: $found ($(mpi_library))"
        return
    fi
    compiler=$(type -P mpicc || true)
    if [[ -n $compiler ]]; then
        say "building mpi4py with $compiler, since its wheel does not work with $found"
        if pip_install --no-cache-dir --force-reinstall --no-deps --no-binary mpi4py 'mpi4py>=4.1' && two_ranks_meet; then
            say "using the MPI found on this machine: $found ($(mpi_library))"
            return
        fi
    fi
    say "$found is there, but two ranks of it with mpi4py do not form one world (missing mpicc, Python headers or" \
        "libmpi?): taking MPICH from pip"
    return 1
}

use_pip_mpi() {
    pip_install --editable "${checkout}[mpi]" || fail "pip could not install dhhpc[mpi]; see above"
    mpiexec=$environment/bin/mpiexec
    # An mpi4py built for a machine's MPI cannot load this one: take its wheel.
    two_ranks_meet || { pip_install --force-reinstall --no-deps 'mpi4py>=4.1' && two_ranks_meet; } ||
        fail "two ranks under $mpiexec do not form one world; try: $mpiexec -n 2 $python -m mpi4py.bench helloworld"
    say "using the MPI from pip: $mpiexec ($(mpi_library))"
}

# An mpi4py that loads another MPI than mpiexec starts gives every rank a world of its own, silently.
two_ranks_meet() {
    local sizes
    sizes=$(timeout 120 "$mpiexec" -n 2 "$python" -c \
        'from mpi4py import MPI; print(f"{MPI.COMM_WORLD.allreduce(1)}\n", end="", flush=True)' \
        2> /dev/null < /dev/null) || return 1
    [[ $(tr -d '[:space:]' <<< "$sizes") == 22 ]]
}

mpi_library() {
    "$python" -c 'from mpi4py import MPI; print(MPI.Get_library_version().replace("\0", "").splitlines()[0].strip())' < /dev/null
}
