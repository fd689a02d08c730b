#!/usr/bin/env bash
# Runs the images of the llm example as users do, with tools that are not ours: skopeo, umoci, runc, docker's registry, qemu.
#
# Debian's packages of them are unpacked into a folder that is removed at the end; nothing is installed. Needs Debian 12 or later on
# amd64, apt, and a user who may make namespaces (root, or kernel.unprivileged_userns_clone).
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
registry=
finish() {
    [ -z "$registry" ] || kill "$registry" 2>/dev/null || true
    chmod -R u+rwX "$work" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

say() { printf '== %s (%ds)\n' "$*" "$SECONDS"; }
die() {
    echo "tools/oci/check.sh: $*" >&2
    exit 1
}
same() { # WHAT GOT EXPECTED
    [ "$2" = "$3" ] || die "$1: got $2, expected $3"
}

prompt='What is a violin?'
answered() { # WHAT TEXT: the demo's answer, which must be words
    [[ $2 =~ [a-z]{3,}\ [a-z]+ ]] || die "$1: expected an answer in words, got: $2"
    echo "$1: $2"
}

say "tools of Debian"
command -v apt-get >/dev/null || die "no apt-get: expected a Debian host"
[ "$(dpkg --print-architecture)" = amd64 ] || die "this host is $(dpkg --print-architecture): expected amd64, arm64 is emulated"
mkdir -p "$work"/apt/archives/partial "$work"/apt/lists/partial "$work/tools"
# The indexes and the downloads are private, as the host's may be old or absent: sources, proxies and what is installed are the host's.
apt() {
    apt-get -qq -y -o Dir::Cache="$work/apt" -o Dir::Cache::archives="$work/apt/archives" -o Dir::State::lists="$work/apt/lists" \
        -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o Debug::NoLocking=1 "$@"
}
apt update >"$work/log" 2>&1 || die "apt cannot read its sources: $(tail -3 "$work/log")"
apt --no-install-recommends --download-only install runc skopeo umoci docker-registry qemu-user-static >"$work/log" 2>&1 ||
    die "apt does not find runc, skopeo, umoci, docker-registry and qemu-user-static: $(tail -3 "$work/log")"
# What the host has already is not among them.
find "$work/apt/archives" -name '*.deb' -exec dpkg-deb -x {} "$work/tools" \;
export PATH="$work/tools/usr/bin:$work/tools/usr/sbin:$PATH:/usr/sbin:/sbin"
export LD_LIBRARY_PATH="$work/tools/usr/lib/x86_64-linux-gnu"
accept='{"default": [{"type": "insecureAcceptAnything"}]}'
echo "$accept" >"$work/policy.json"
copy() { skopeo --policy "$work/policy.json" copy --quiet --src-tls-verify=false --dest-tls-verify=false "$@"; }

say "build"
bazel() { env -u LD_LIBRARY_PATH ./bazel "$@"; }
declare -A digest
for arch in arm64 amd64; do
    # amd64 is the host: not naming it leaves what the tests have built in place.
    platform=()
    [ "$arch" = amd64 ] || platform=(--platforms=//platforms:linux_arm64)
    bazel build --config=ci "${platform[@]}" //examples/llm:image //examples/llm:image.digest //tools/oci:bundle //third_party/rules_oci/oci/private:oci 2>"$work/log" || {
        cat "$work/log" >&2
        die "the image for $arch does not build"
    }
    bin=$(bazel info "${platform[@]}" bazel-bin 2>/dev/null)
    cp -r "$bin/examples/llm/image" "$work/$arch"
    chmod -R u+w "$work/$arch"
    digest[$arch]=$(cat "$bin/examples/llm/image.json.sha256")
    echo "$arch: ${digest[$arch]}, $(($(du -sb "$work/$arch/blobs" | cut -f1) / 1000000)) MB"
done

say "a registry takes the images; pushes give the digests of the build"
cat >"$work/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:0"}
END
port=$((20000 + RANDOM % 20000))
sed -i "s/127.0.0.1:0/127.0.0.1:$port/" "$work/registry.yml"
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
host=127.0.0.1:$port
for _ in {1..100}; do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    kill -0 "$registry" 2>/dev/null || die "docker-registry ended: $(cat "$work/registry.log")"
    sleep 0.1
done
for arch in amd64 arm64; do
    copy --preserve-digests "oci:$work/$arch" "docker://$host/skopeo/llm:$arch"
    same "skopeo's copy for $arch" "$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$host/skopeo/llm:$arch")" "${digest[$arch]}"
done
oci() { env -u LD_LIBRARY_PATH "$bin/third_party/rules_oci/oci/private/oci" "$@"; }
printf '{"images": ["%s", "%s"], "output": "%s", "annotations": {}}' "$work/amd64" "$work/arm64" "$work/index" >"$work/index.json"
oci index "$work/index.json"
# The layers of skopeo's push are mounted, not sent again.
pushed=$(oci push "$work/index" --repository="$host/zml/llm" --tag=latest --mount=skopeo/llm 2>"$work/log") || die "push: $(cat "$work/log")"
grep -q '^0 blobs sent' "$work/log" || die "push sent what the registry could mount: $(cat "$work/log")"
got=$(skopeo inspect --tls-verify=false --raw "docker://$host/zml/llm:latest" | sha256sum | cut -d' ' -f1)
same "the pushed index" "$host/zml/llm@sha256:$got" "$pushed"
pushed=$(oci push "$work/amd64" --repository="$host/other/llm" --tag=v1 2>"$work/log") || die "push: $(cat "$work/log")"
same "the pushed image" "$pushed" "$host/other/llm@${digest[amd64]}"
copy "docker://$host/other/llm:v1" "oci:$work/pulled"
grep -q "${digest[amd64]}" "$work/pulled/index.json" || die "what was pulled is not ${digest[amd64]}: $(cat "$work/pulled/index.json")"
kill "$registry"
registry=

say "archives for docker and podman"
for form in docker oci; do
    oci load "$work/amd64" --format="$form" --repo_tag=zml/llm:v1 --output="$work/archive.tar"
    name="$form-archive:$work/archive.tar"
    same "the config of the $form archive" "$(skopeo inspect --config "$name" | sha256sum)" "$(skopeo inspect --config "oci:$work/amd64" | sha256sum)"
    rm "$work/archive.tar"
done

say "unpack"
for arch in amd64 arm64; do
    copy "oci:$work/$arch" "oci:$work/named-$arch:llm"
    rootless=()
    [ "$(id -u)" = 0 ] || rootless=(--rootless)
    umoci unpack "${rootless[@]}" --image "$work/named-$arch:llm" "$work/bundle-$arch" >/dev/null 2>&1 || die "umoci cannot unpack the image for $arch"
    rm -rf "$work/named-$arch"
done

# Runs `$1`, the root of an image, read-only and without a network, by unshare alone: PROGRAM ARGUMENT...
enter() {
    local root=$1
    shift
    env -u LD_LIBRARY_PATH -u PYTHONPATH unshare --user --map-root-user --mount --pid --net --fork bash -c '
        set -eu
        chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
        root=$1
        shift
        mount --rbind "$root" "$root"
        mount -t tmpfs none "$root/dev"
        for device in null zero random urandom; do
            : >"$root/dev/$device"
            mount --bind "/dev/$device" "$root/dev/$device"
        done
        [ ! -e "$root/../qemu" ] || { : >"$root/dev/qemu"; mount --bind "$root/../qemu" "$root/dev/qemu"; }
        mount -t proc proc "$root/proc"
        mount -o remount,bind,ro "$root"
        exec env -i HOME=/home/nonroot LANG=C.UTF-8 PATH=/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
            PYTHONPATH=/opt/app:/opt/site-packages XDG_CACHE_HOME=/cache "$chroot" "$root" "$@"' enter "$root" "$@"
}
python=(/usr/bin/python3.13 -sP -m examples.llm)

say "amd64 by unshare, read-only, without a network"
answered "amd64 by unshare" "$(enter "$work/bundle-amd64/rootfs" "${python[@]}" --prompt="$prompt" --temperature=0 2>"$work/log" || cat "$work/log" >&2)"

say "amd64 by runc, as the image says: not root, read-only"
run() { # NAME ARGUMENT...
    local name=$1
    shift
    env -u LD_LIBRARY_PATH "$bin/tools/oci/bundle" "$work/bundle-amd64/config.json" "$@"
    runc --root "$work/runc" run --bundle "$work/bundle-amd64" "$name"
}
answered "amd64 by runc" "$(run one --prompt="$prompt" --temperature=0 2>"$work/log" || cat "$work/log" >&2)"

say "SIGTERM ends it"
run two --prompt="$prompt" --ignore_eos --max_new_tokens=500 --seqlen=512 >"$work/out" 2>&1 &
container=$!
for _ in {1..200}; do
    grep -q 'Loaded tokenizer' "$work/out" && break
    sleep 0.05
done
runc --root "$work/runc" kill two TERM || die "the program ended before it could be told to: $(cat "$work/out")"
status=0
wait "$container" || status=$?
same "the exit code after SIGTERM" "$status" 143

say "arm64 by qemu, read-only, without a network"
cp "$work/tools/usr/bin/qemu-aarch64-static" "$work/bundle-arm64/qemu"
answered "arm64 by qemu" "$(enter "$work/bundle-arm64/rootfs" /dev/qemu -cpu neoverse-n1 "${python[@]}" --prompt="$prompt" --temperature=0 --max_new_tokens=12 2>"$work/log" || cat "$work/log" >&2)"

say "all good"
