"""A whole machine with AVX-512, emulated by Bochs: it boots Linux, runs one program and ends.

Bochs emulates machines, not processes. Some minutes are for booting; nothing of the host is touched.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

from native_runs import ROOT

PACKAGES = {
    "bochs-bin": "bochs",
    "xorriso": "xorriso",
    "cpio": "cpio",
    "cc": "gcc",
    "/usr/share/bochs/BIOS-bochs-latest": "bochsbios",
    "/usr/share/bochs/VGABIOS-lgpl-latest": "bochsbios",
    "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so": "bochs-term",
    "/usr/lib/ISOLINUX/isolinux.bin": "isolinux",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32": "syslinux-common",
}
# Without XSAVES and XSAVEC, whose areas Bochs 2.7 and Linux size differently; Linux would drop AVX-512.
LINUX = "initrd=/initrd quiet mitigations=off tsc=reliable noapic nolapic acpi=off clearcpuid=321,323"
MACHINE = """\
display_library: term
cpu: model=corei7_skylake_x, ips=100000000
memory: guest=256, host=256
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
port_e9_hack: enabled=1
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
plugin_ctrl: speaker=false
log: bochs.log
panic: action=fatal
"""


def kernel() -> Path | None:
    """Linux to boot: TIMELIKE_TEST_KERNEL, or the newest of /boot."""
    named = os.environ.get("TIMELIKE_TEST_KERNEL")
    return Path(named) if named else max(Path("/boot").glob("vmlinuz-*"), default=None)


def run(program: Path, cases: bytes, folder: Path, seconds: float) -> bytes:
    """Boot, run a statically linked program on the cases, and give its results."""
    _write_disc(program, cases, folder)
    (folder / "machine").write_text(MACHINE)
    (folder / "commands").write_text("c\n")  # of the debugger that Bochs may have been built with
    said = _on_terminal(["bochs-bin", "-q", "-f", "machine", "-rc", "commands"], folder, seconds)
    found = re.search(rb"<status (\d+)><results ([0-9a-f]*)>", said)
    assert found, f"no results: {said[-500:]!r}"
    assert found[1] == b"0", f"the program ended with status {int(found[1])}"
    return bytes.fromhex(found[2].decode())


def _write_disc(program: Path, cases: bytes, folder: Path) -> None:
    linux = kernel()
    assert linux is not None
    disc, files = folder / "disc", folder / "files"
    (disc / "isolinux").mkdir(parents=True)
    files.mkdir()
    init = ROOT / "tests/native/emulated_init.c"
    subprocess.run(["cc", "-O2", "-static", "-o", files / "init", init], check=True)
    shutil.copy(program, files / "run_cases")
    (files / "cases").write_bytes(cases)
    names = b"init\nrun_cases\ncases\n"
    archive = ["cpio", "-o", "-H", "newc", "--quiet"]
    initrd = subprocess.run(archive, cwd=files, input=names, capture_output=True, check=True).stdout
    (disc / "initrd").write_bytes(initrd)
    shutil.copy(linux, disc / "vmlinuz")
    for path in list(PACKAGES)[-2:]:
        shutil.copy(path, disc / "isolinux")
    boot = f"DEFAULT linux\nPROMPT 0\nLABEL linux\n KERNEL /vmlinuz\n APPEND {LINUX}\n"
    (disc / "isolinux/isolinux.cfg").write_text(boot)
    write = "xorriso -as mkisofs -quiet -o boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat"
    write += " -no-emul-boot -boot-load-size 4 -boot-info-table disc"
    subprocess.run(write.split(), cwd=folder, check=True, capture_output=True)


def _on_terminal(command: list[str], folder: Path, seconds: float) -> bytes:
    """Run a program that wants a terminal; give what it wrote there."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "vt100"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    said, end = bytearray(), time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 1)[0]:
                try:
                    said += os.read(ours, 1 << 16)
                except OSError:  # the other side is closed
                    break
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(ours)
    return bytes(said)
