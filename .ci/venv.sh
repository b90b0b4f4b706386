# Sourced by ./start, ./check and .ci/run: makes .venv in the checkout and installs what is asked for.
# Nothing outside the checkout is written. Two of these programs may run at once.

# ensure_venv EXTRA: EXTRA is "" (to run it), "test" or "dev". Needs $here, the checkout. Returns 1 with a message.
ensure_venv() {
    venv="$here/.venv"
    stamp="$venv/.installed-${1:-base}"
    wanted="$here $(cat "$here/setup.cfg" "$here/constraints.txt" "$here/pyproject.toml" | cksum)"
    installed "$1" && return 0
    if command -v flock > /dev/null; then
        exec 9> "$here/.venv.lock"
        flock -n 9 || { echo "Another ./start or ./check is setting up .venv; waiting for it ..." >&2; flock 9; }
    fi
    if installed "$1" || make_venv "$1"; then status=0; else status=1; fi
    exec 9>&-
    return $status
}

# A wider set of packages is good for a narrower question.
installed() {
    case "$1" in dev) sets="dev" ;; test) sets="test dev" ;; *) sets="base test dev" ;; esac
    for name in $sets; do
        [ "$(cat "$venv/.installed-$name" 2> /dev/null)" = "$wanted" ] && [ -x "$venv/bin/python" ] && return 0
    done
    return 1
}

make_venv() {
    case "$(cat "$venv/.place" 2> /dev/null)" in
        "$here") "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || rm -rf "$venv" ;;
        *) rm -rf "$venv" ;;  # absent, half made, or made for another place
    esac
    if [ ! -d "$venv" ]; then
        python=$(find_python) || return 1
        echo "Making .venv with $("$python" --version 2>&1) ..." >&2
        if ! "$python" -m venv "$venv" > "$here/.venv.log" 2>&1; then
            tail -n 5 "$here/.venv.log" >&2
            echo "Python could not make a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2
            rm -rf "$venv"
            return 1
        fi
        printf '%s\n' "$here" > "$venv/.place"
    fi
    what=$here
    [ -n "$1" ] && what="$here[$1]"
    echo "Installing packages into .venv (the first time only; about a minute) ..." >&2
    mkdir -p "$venv/tmp"
    if ! TMPDIR="$venv/tmp" PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install --quiet --no-cache-dir \
        --no-input -c "$here/constraints.txt" --config-settings editable_mode=compat -e "$what" \
        > "$here/.venv.log" 2>&1; then
        tail -n 15 "$here/.venv.log" >&2
        echo "The packages could not be installed; all of pip's output is in .venv.log." >&2
        return 1
    fi
    rm -rf "$venv/tmp" "$here/.venv.log"
    printf '%s\n' "$wanted" > "$stamp.new" && mv "$stamp.new" "$stamp"
}

# ensure_moto: EC2 over HTTP for the tests, in an environment of its own (docs/dependencies.md says why). 1 when it cannot be had.
ensure_moto() {
    moto="$here/.venv-moto"
    wanted_moto="$here $(cksum < "$here/.ci/moto.txt")"
    [ "$(cat "$moto/.installed" 2> /dev/null)" = "$wanted_moto" ] && return 0
    rm -rf "$moto"
    python=$(find_python) || return 1
    echo "Installing moto into .venv-moto (the first time only) ..." >&2
    "$python" -m venv "$moto" > "$here/.venv.log" 2>&1 \
        && PIP_DISABLE_PIP_VERSION_CHECK=1 "$moto/bin/python" -m pip install --quiet --no-cache-dir --no-input \
            -r "$here/.ci/moto.txt" > "$here/.venv.log" 2>&1 || { tail -n 3 "$here/.venv.log" >&2; return 1; }
    rm -f "$here/.venv.log"
    printf '%s\n' "$wanted_moto" > "$moto/.installed"
}

# ensure_frameworks: Spark and Flink for the tests, in an environment of their own: they are large, and only jars and scripts of
# them are used. 1 when they cannot be had.
ensure_frameworks() {
    frameworks="$here/.venv-frameworks"
    wanted_frameworks="$here $(cksum < "$here/.ci/frameworks.txt")"
    if [ "$(cat "$frameworks/.installed" 2> /dev/null)" != "$wanted_frameworks" ]; then
        rm -rf "$frameworks"
        python=$(find_python) || return 1
        echo "Installing Spark and Flink into .venv-frameworks (the first time only; some minutes) ..." >&2
        "$python" -m venv "$frameworks" > "$here/.venv.log" 2>&1 && mkdir -p "$frameworks/tmp" \
            && TMPDIR="$frameworks/tmp" PIP_DISABLE_PIP_VERSION_CHECK=1 "$frameworks/bin/python" -m pip install --quiet \
                --no-cache-dir --no-input -r "$here/.ci/frameworks.txt" > "$here/.venv.log" 2>&1 \
            || { tail -n 3 "$here/.venv.log" >&2; return 1; }
        rm -rf "$frameworks/tmp" "$here/.venv.log"
        printf '%s\n' "$wanted_frameworks" > "$frameworks/.installed"
    fi
    for module in pyspark:SPARK pyflink:FLINK; do
        for found in "$frameworks"/lib/python3*/site-packages/"${module%%:*}"; do
            [ -d "$found" ] && export "CLOUDSCHED_TEST_${module#*:}_HOME=$found"
        done
    done
}

# ensure_packages: Debian packages that the tests of real engines need, when we may install them; else says what is skipped.
ensure_packages() {
    missing=""
    for pair in sshd:openssh-server ssh:openssh-client slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge \
        slurmdbd:slurmdbd slurmrestd:slurmrestd mariadbd:mariadb-server-core mariadb:mariadb-client-core \
        ip:iproute2 java:openjdk-17-jre-headless; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" > /dev/null || missing="$missing ${pair#*:}"
    done
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "Not installed:$missing. The tests that need them are skipped (install them, or run this as root on Debian)." >&2
        return 0
    fi
    echo "Installing Debian packages for the tests of real engines:$missing ..." >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
        > "$here/.venv.log" 2>&1 || { tail -n 3 "$here/.venv.log" >&2; echo "The tests that need them are skipped." >&2; }
    rm -f "$here/.venv.log"
}

find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.14 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "cloudsched needs Python 3.11 or newer; none was found in PATH." >&2
    echo "Install one (Debian and Ubuntu: apt install python3 python3-venv), or name it: PYTHON=/path/to/python3 $0" >&2
    return 1
}
