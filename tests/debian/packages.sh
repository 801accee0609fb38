# shellcheck shell=bash
# Debian's packages, from the mirror this machine is already configured with, unpacked into a cache.
#
# Sourced after cache.sh. An apt of our own: its own folders, an empty package status, nothing
# installed. apt checks each Release file's signature and each package's hash. What cannot be had
# ends the caller by not_here.

readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror that serves this machine's own Debian release.
mirror() {
    local codename found
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt's own placeholders
    found=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
        awk -v release="$codename" '$1 == release && $2 == "main" { print $3; exit }')
    [ -n "$found" ] || not_here "apt is configured with no Debian mirror for \"$codename\" main"
    echo "$found"
}

# An apt for one suite and its backports, with its own state.
apt_root() {
    local suite=$1 site
    need apt-get apt-cache dpkg-deb flock
    [ "$(dpkg --print-architecture)" = amd64 ] || not_here "only amd64 hosts are catered for"
    [ -r "$KEYRING" ] || not_here "no $KEYRING to check signatures with"
    site=$(mirror)
    mkdir -p "$new"/etc/{apt.conf.d,preferences.d,sources.list.d} "$new/state/lists/partial" \
        "$new/cache/archives/partial"
    : >"$new/state/status"
    cat >"$new/etc/sources.list" <<END
deb [arch=amd64 signed-by=$KEYRING] $site $suite main
END
    [ "$suite" = sid ] || # which has no backports
        echo "deb [arch=amd64 signed-by=$KEYRING] $site $suite-backports main" >>"$new/etc/sources.list"
    apt_conf "$new" >"$new/apt.conf"
    APT_CONFIG=$new/apt.conf logged "apt-$suite" apt-get -o APT::Update::Error-Mode=any update ||
        not_here "the lists of $suite cannot be had from the configured mirror"
    apt_conf "$cache/apt-$suite" >"$new/apt.conf" # its place once renamed
}

apt_conf() {
    cat <<END
Dir "$1";
Dir::Etc "$1/etc";
Dir::State "$1/state";
Dir::State::status "$1/state/status";
Dir::Cache "$1/cache";
Dir::Log "$1";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false"; // a mirror may be a snapshot; signatures are checked all the same
END
}

# apt SUITE COMMAND...: one of apt's programs on that suite's root.
apt() {
    local suite=$1
    shift
    once "apt-$suite" apt_root "$suite"
    APT_CONFIG=$cache/apt-$suite/apt.conf "$@"
}

# Downloads packages into $new/.debs, from apt's cache where it has them. A list that has become
# old names packages that are gone: the lists are fetched again, once.
download() {
    local suite=$1 how=$2 try
    shift 2
    once "apt-$suite" apt_root "$suite"
    mkdir -p "$new/.debs"
    for try in 1 2; do
        if (cd "$new/.debs" && "download_$how" "$suite" "$@"); then return 0; fi
        if [ "$try" = 1 ]; then logged "apt-$suite-again" apt "$suite" apt-get update || true; fi
    done
    not_here "$suite does not give us $*"
}

# These packages alone.
download_alone() {
    local suite=$1 archives=$cache/apt-$1/cache/archives
    shift
    (cd "$archives" && logged "get-${new##*/}" apt "$suite" apt-get download "$@") || return 1
    apt "$suite" apt-get --print-uris download "$@" | names_of | while read -r name; do
        ln "$archives/$name" . || exit 1
    done
}

# These packages with all they depend on.
download_whole() {
    local suite=$1 archives=$cache/apt-$1/cache/archives
    shift
    logged "get-${new##*/}" apt "$suite" apt-get install -y --download-only "$@" || return 1
    rm -f .names
    apt "$suite" apt-get install -y --print-uris -o "Dir::Cache::archives=$new/.none" "$@" |
        names_of >.names || return 1
    while read -r name; do ln "$archives/$name" . || return 1; done <.names
}

names_of() { awk "/^'/ { print \$2 }"; }

# Unpacks the downloaded packages into $new as one tree, with Debian's merged /usr.
unpack_tree() {
    local dir deb
    for dir in bin sbin lib lib64; do
        mkdir -p "$new/usr/$dir"
        ln -sfn "usr/$dir" "$new/$dir"
    done
    for deb in "$new"/.debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$new" --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/man/*' \
            --exclude='./dev/*'
    done
    rm -rf "$new/.debs" "$new/.none"
}
