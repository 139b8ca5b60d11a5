"""Sets up the Linux guest of tests/e2e/test_guest.py: QEMU, a kernel, and an initramfs with our worker in it.

`make guest` runs it; the second time it does nothing. Everything comes from Debian 12 by apt and lies below one
directory (`BIXI_GUEST`, else ~/.cache/bixi-guest); nothing is installed, no root is needed. apt resolves against an
empty package database of its own, so the tree of packages holds its own C library and runs on any Linux; it is
started through its own loader (`run_by`), because the machine's may be older.

    apt/                  lists and archives of our own apt
    system-<key>/         the packages, unpacked; the key is of what was asked for
    image-<key>/          initramfs.gz; the key is of the system and of the files beside this one

What it leaves to others: what the guest does (init, worker.rs), starting it (machine.py).
"""

import fcntl
import gzip
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
HOME = pathlib.Path(os.environ.get("BIXI_GUEST") or pathlib.Path.home() / ".cache/bixi-guest")

MIRROR = os.environ.get("BIXI_DEBIAN_MIRROR", "http://deb.debian.org/debian")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = ["qemu-system-x86", "e2fsprogs", "xfsprogs", "busybox-static"]
# A package without content, which says which kernel is the present one. That one is taken without what it needs.
KERNEL = "linux-image-cloud-amd64"

# What the guest runs, and the modules it loads; what those need comes along.
TOOLS = ["sbin/mke2fs", "sbin/e2fsck", "sbin/mkfs.xfs", "sbin/xfs_repair"]
MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "xfs"]
# Not the one in lib64/, which is a link to this one in the machine's own tree.
LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
LIBRARIES = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]


def key(*parts) -> str:
    """A short name for these bytes."""
    return hashlib.sha256(b"\0".join(part if isinstance(part, bytes) else repr(part).encode() for part in parts)).hexdigest()[:12]


def system() -> pathlib.Path:
    return HOME / f"system-{key(PACKAGES, KERNEL)}"


def image() -> pathlib.Path:
    sources = [(HERE / name).read_bytes() for name in ("prepare.py", "init", "worker.rs")]
    return HOME / f"image-{key(system().name, *sources)}"


def is_there() -> bool:
    return (image() / "initramfs.gz").exists() and system().exists()


def kernel() -> pathlib.Path:
    return next((system() / "boot").glob("vmlinuz-*"))


def run_by(root: pathlib.Path) -> list:
    """What a program of `root` is started by: its loader, with its libraries alone."""
    return [str(root / LOADER), "--library-path", ":".join(str(root / path) for path in LIBRARIES)]


def make() -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    # Checkouts share it.
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for target, fill in ((system(), fill_system), (image(), fill_image)):
            if not target.exists():
                print(f"guest: making {target}", flush=True)
                part = HOME / "part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                fill(part)
                part.rename(target)


def fill_system(root: pathlib.Path) -> None:
    apt = HOME / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").write_text("")
    (apt / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {MIRROR} bookworm main\n")
    settings = {
        "APT::Architecture": "amd64", "APT::Sandbox::User": "", "APT::Install-Recommends": "false", "Acquire::Languages": "none",
        "Acquire::Retries": "3", "Dir::State": apt, "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status",
        "Dir::Cache": apt, "Dir::Cache::archives": apt / "archives", "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null", "Dir::Etc::preferences": "/dev/null",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    tell("apt-get", *options, "-q", "update")
    needs = tell("apt-cache", *options, "depends", KERNEL)
    release = re.search(r"Depends: (linux-image-[0-9]\S*)", needs)[1]
    tell("apt-get", *options, "-q", "-y", "--download-only", "install", *PACKAGES)
    tell("apt-get", *options, "-q", "download", release, cwd=apt / "archives")
    for package in sorted((apt / "archives").glob("*.deb")):
        tell("dpkg-deb", "--extract", package, root)
    # Some hundred megabytes that nobody needs twice.
    shutil.rmtree(apt)


def fill_image(target: pathlib.Path) -> None:
    root, cpio = system(), Cpio()
    for folder in ("bin", "sbin", "etc", "lib64", "modules", "proc", "sys", "dev", "mnt", "mnt/ext4", "mnt/xfs", "run", "tmp", "var"):
        cpio.add(folder, 0o040755)
    # Where the first process says what goes wrong before it has mounted anything.
    cpio.add("dev/console", 0o020600, device=(5, 1))
    cpio.file("init", HERE / "init")
    cpio.file("bin/busybox", root / "bin/busybox")
    cpio.file("etc/mke2fs.conf", root / "etc/mke2fs.conf")
    worker = target / "worker"
    rustc = shutil.which("rustc") or str(pathlib.Path.home() / ".cargo/bin/rustc")
    # Static, because the guest's C library is older than this machine's may be.
    flags = ["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]
    tell(rustc, *flags, "-o", worker, HERE / "worker.rs")
    cpio.file("bin/worker", worker)
    libraries = {}
    for tool in TOOLS:
        cpio.file(tool, root / tool if (root / tool).exists() else root / "usr" / tool)
        for line in tell(*run_by(root), "--list", root / tool).splitlines():
            found = re.match(r"\s*(\S+) => (/\S+)", line)
            if found and "ld-linux" not in found[1]:
                libraries[found[1]] = found[2]
    cpio.file("lib64/ld-linux-x86-64.so.2", root / LOADER)
    for name, path in libraries.items():
        cpio.file(f"lib64/{name}", pathlib.Path(path))
    order = module_order(root)
    for path in order:
        cpio.file(f"modules/{path.name}", path)
    cpio.add("modules/order", 0o100644, "".join(f"{path.name}\n" for path in order).encode())
    (target / "initramfs.gz").write_bytes(gzip.compress(cpio.end(), 6, mtime=0))


def module_order(root: pathlib.Path) -> list:
    """Files of MODULES and of all that they need, in an order in which they can be loaded."""
    [home] = (root / "lib/modules").iterdir()
    plain = lambda name: name.replace("-", "_")  # noqa: E731, the kernel holds both for one
    files = {plain(path.stem): path for path in home.rglob("*.ko")}
    built_in = {plain(pathlib.Path(line).stem) for line in (home / "modules.builtin").read_text().split()}
    order = []

    def take(name):
        if name in built_in or files[name] in order:
            return
        # Debian's packages bring no modules.dep, the modules themselves say what they need.
        for line in re.findall(rb"\0depends=([^\0]*)\0", files[name].read_bytes()):
            for other in filter(None, line.decode().split(",")):
                take(plain(other))
        order.append(files[name])

    for name in MODULES:
        take(name)
    return order


class Cpio:
    """An archive of the kind that the kernel unpacks as its first file system (`newc`)."""

    def __init__(self):
        self.parts, self.count = [], 0

    def add(self, name: str, mode: int, data: bytes = b"", device=(0, 0)) -> None:
        self.count += 1
        encoded = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self.parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]

    def file(self, name: str, path: pathlib.Path) -> None:
        self.add(name, 0o100755, path.read_bytes())

    def end(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def tell(*argv, **more) -> str:
    argv = list(map(str, argv))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        sys.exit(f"guest: {' '.join(argv)}\n{done.stdout}\nguest: ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    if not shutil.which("apt-get") or not os.path.exists(KEYRING) or platform.machine() != "x86_64":
        print("guest: not a Debian system of amd64: no Linux guest is tested")
        sys.exit()
    make()
