"""What a zip can do that a tar cannot, and the tar table's shapes again: refused without a trace, or as intended."""

from __future__ import annotations

import bz2
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import Limits, extract

from . import build
from .buildzip import (
    ABSENT,
    UTF8,
    Member,
    archive,
    deflate,
    extra,
    folder,
    member,
    overlapping,
    quoted,
    streamed,
    symlink,
    wide,
)
from .hostile import Builder, Case, found_in, refused_everywhere, taken_as_intended_or_leaves_nothing


def made(*members: Member, **fields: object) -> Builder:
    return lambda _: archive(*members, **fields)  # type: ignore[arg-type]


def outside(make: Callable[[str], list[Member]]) -> Builder:
    """A zip that names the directory of the canary by its absolute path."""
    return lambda place: archive(*make(str(place)))


def raw(data: bytes) -> Builder:
    return lambda _: data


def spoiled(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def special(kind: int) -> Builder:
    return made(member("odd", b"", kind | 0o644))


def unicode_path(name: bytes, meant: str) -> bytes:
    return extra(0x7075, b"\x01" + struct.pack("<L", zlib.crc32(name)) + meant.encode())


GOOD = archive(member("a.txt", b"hello"))
TEXT = b"0123456789" * 100
ZEROS = deflate(bytes(12 << 20))

CASES = [
    # names
    Case("dotdot", made(member("../canary")), "leaves the archive's root"),
    Case("dotdot-inside", made(member("a/b/../../../canary")), "leaves the archive's root"),
    Case("absolute", outside(lambda to: [member(f"{to}/canary")]), "absolute path"),
    Case("two-slashes", made(member("//etc/passwd")), "absolute path"),
    Case("drive", made(member("C:\\x")), "backslash"),
    Case("backslash-dotdot", made(member("..\\..\\x")), "backslash"),
    Case("empty-name", made(member("")), "empty name"),
    Case("nul", made(member("a.txt\0.png")), "NUL"),
    Case("escape", made(member("a\x1b[2Jb")), "control character"),
    Case("bidi", made(member("gpj.\u202eexe", flags=UTF8)), "changes how it reads"),
    Case("long-part", made(member("p" * 256)), "more than 255 bytes"),
    Case("long-path", made(member("d/" * 2100 + "x")), "limit"),
    Case("deep", made(member("d/" * 150 + "x")), "directories deep"),
    Case("duplicate", made(member("a", b"1"), member("./a", b"2")), "there twice"),
    Case("file-then-directory", made(member("a"), folder("a/")), "there twice"),
    Case("below-a-file", made(member("a"), member("a/b")), "below 'a'"),
    Case("case", made(member("README"), member("readme")), "one file where case"),
    Case("accents", made(member("caf\u00e9", flags=UTF8), member("cafe\u0301", flags=UTF8)), "one file where case"),
    Case("dos-slash", made(member("d/", b"", 0, system=0)), gives={"d": ""}),
    Case("not-utf8", made(member(b"\xff", flags=UTF8)), "claims a name in UTF-8"),
    Case("two-names", made(member("a", here={"name": b"b"})), "is called 'b' in its own header"),
    Case("two-lengths", made(member("a", here={"name": b"a/../../canary"})), "in its own header"),
    Case("unicode-path-out", made(member(b"a", extra=unicode_path(b"a", "../canary"))), "leaves the archive's root"),
    Case("unicode-path-twice", made(member(b"a", extra=unicode_path(b"a", "b") + unicode_path(b"a", "c"))), "twice"),
    Case("unicode-path-differs", made(member(b"a", here={"extra": unicode_path(b"a", "b")})), "is called 'b'"),
    Case("unicode-path-collides", made(member("b"), member(b"a", extra=unicode_path(b"a", "b"))), "there twice"),
    # links and special files
    Case("link-absolute", outside(lambda to: [symlink("l", to)]), skips=("l",), empty=True),
    Case("link-dotdot", made(symlink("l", "../outside")), skips=("l",), empty=True),
    Case("write-through", made(symlink("l", "../outside"), member("l/canary")), "below 'l'"),
    Case("link-then-file", made(symlink("l", "../outside/canary"), member("l")), "there twice"),
    Case("chain", made(folder("d/"), symlink("d/up", ".."), symlink("out", "d/up/../outside"), member("out/canary")),
         "below 'out'"),
    Case("self-loop", made(symlink("l", "l")), skips=("l",), empty=True),
    Case("empty-target", made(symlink("l", "")), "link with the target"),
    Case("nul-target", made(symlink("l", "a\0b")), "link with the target"),
    Case("long-target", made(symlink("l", "t" * 5000)), "a target of 5,000 bytes"),
    Case("target-lies", made(symlink("l", "t" * 5000, size=10)), "more than the 10 bytes"),
    Case("target-bomb", made(symlink("l", b"", packed=ZEROS, size=10)), "more than the 10 bytes"),
    Case("dos-link", made(symlink("l", "../outside", system=0)), skips=("l",), empty=True),
    Case("link-with-slash", made(symlink("l/", "x")), "is a link by its attributes and a dir by its name"),
    Case("char-device", special(stat.S_IFCHR), "character device"),
    Case("block-device", special(stat.S_IFBLK), "block device"),
    Case("fifo", special(stat.S_IFIFO), "FIFO"),
    Case("socket", special(stat.S_IFSOCK), "socket"),
    Case("unknown-kind", special(0o70000), "unknown kind"),
    Case("folder-without-slash", made(member("d", b"", stat.S_IFDIR | 0o755)), "is a dir by its attributes"),
    Case("dos-folder-without-slash", made(member("d", b"", system=0, attributes=0x10)), "is a dir by its attributes"),
    Case("file-with-slash", made(member("d/", b"x")), "is a file by its attributes and a dir by its name"),
    Case("folder-with-data", made(member("d/", b"x", stat.S_IFDIR | 0o755)), "claims 1 bytes"),
    Case("setuid", made(member("s", b"x", stat.S_IFREG | 0o6777)), gives={"s": b"x"}),
    Case("no-permissions", made(member("s", b"x", 0)), gives={"s": b"x"}),
    # sizes, sums and methods
    Case("size-too-small", made(member("a", TEXT, size=999)), "more than the 999 bytes"),
    Case("size-too-large", made(member("a", TEXT, size=1001)), "has 1,000 bytes and claims 1,001"),
    Case("size-of-gigabytes", made(member("a", TEXT, size=0xFFFFFFFE)), "limit for one"),
    Case("stored-too-small", made(member("a", TEXT, method=0, size=999)), "more than the 999 bytes"),
    Case("packed-too-small", made(member("a", TEXT, packed=deflate(TEXT)[:-3])), "deflate's end is missing"),
    Case("packed-too-large", made(member("a", TEXT, packed=deflate(TEXT) + b"more")), "goes on after deflate's end"),
    Case("packed-into-the-next", made(member("a", TEXT, there={"packed": 500}), member("b")), "described in two ways"),
    Case("no-data", made(member("a", TEXT, packed=b"")), "deflate's end is missing"),
    Case("not-deflate", made(member("a", TEXT, packed=b"\xff" * 50)), "deflate reports"),
    Case("crc", made(member("a", TEXT, crc=1)), "its checksum is wrong"),
    Case("flipped", raw(spoiled(GOOD, 37)), "a.txt"),
    Case("crc-of-nothing", made(member("a", b"", crc=1)), "its checksum is wrong"),
    Case("two-sizes", made(member("a", TEXT, here={"size": 5})), "described in two ways"),
    Case("two-sums", made(member("a", TEXT, here={"crc": 5})), "described in two ways"),
    Case("two-methods", made(member("a", TEXT, here={"method": 0})), "described in two ways"),
    Case("unsized-without-descriptor", made(member("a", TEXT, here={"size": 0, "packed": 0, "crc": 0})), "two ways"),
    Case("encrypted", made(member("a", TEXT, flags=1)), "is encrypted"),
    Case("strongly-encrypted", made(member("a", TEXT, flags=0x41)), "is encrypted"),
    Case("encrypted-here-only", made(member("a", TEXT, here={"flags": 1})), "described in two ways"),
    Case("masked-directory", made(member("a", TEXT, flags=0x2000)), "is encrypted"),
    Case("bzip2", made(member("a", TEXT, method=12, packed=bz2.compress(TEXT))), "method 12 (bzip2)"),
    Case("unknown-method", made(member("a", TEXT, method=77)), "method 77 (one that is not known)"),
    # bombs
    Case("ratio", made(member("z", b"", packed=ZEROS, size=12 << 20)), "bomb"),
    Case("member", made(member("z", size=33 << 20)), "limit for one"),
    Case("overlapping", raw(overlapping(50, 1 << 20)), "'z1' overlaps another one"),
    Case("quoted-overlap", raw(quoted(50, 1 << 20)), "overlaps another one"),
    Case("many", made(*(member(f"f{n}", b"", method=0) for n in range(1_001))), "more than 1,000 members"),
    Case("more-than-there-are", made(member("a"), here=900, count=900), "cut short in its directory"),
    Case("count-of-billions", made(zip64=True, here=1 << 60, count=1 << 60), "more than 1,000 members"),
    Case("nested", made(member("inner.zip", GOOD)), gives={"inner.zip": GOOD}),
    Case("nested-stored", made(member("inner.zip", GOOD, method=0), member("b")), gives={"inner.zip": GOOD, "b": b"x"}),
    # the file around it
    Case("nothing-after-the-magic", raw(b"PK"), "end record is missing"),
    Case("cut", raw(GOOD[:-4]), "end record is missing"),
    Case("cut-in-comment", raw(archive(member("a"), comment=b"four")[:-1]), "cut short in its comment"),
    Case("appended", made(member("a"), after=b"garbage"), "bytes after its end"),
    Case("appended-zip", raw(GOOD + GOOD), "not where its end record says"),
    Case("appended-zip-that-knows", raw(GOOD + archive(member("b"), shift=len(GOOD))), "has bytes before it"),
    Case("prepended-zip-magic", made(member("a"), before=b"PK\x03\x04" + bytes(60)), "has bytes before it"),
    Case("prepended", made(member("a"), before=b"PK", shift=-2), "not where its end record says"),
    Case("prepended-elf", made(member("a"), before=b"\x7fELF" + bytes(9)), "no gzip archive; it begins with '\\x7fELF"),
    Case("gap", made(member("a"), between=bytes(9)), "bytes before its directory"),
    Case("hidden-member", made(member("a"), between=member("h").local() + member("h").packed), "before its directory"),
    Case("hidden-between", made(member("a", after=member("h").local() + member("h").packed), member("b")),
         "'b' has bytes before it"),
    Case("two-ends", raw(archive(member("a"), comment=archive(member("b")))), "not where its end record says"),
    Case("end-in-comment", raw(archive(member("a"), comment=b"PK\x05\x06" + bytes(18))), "directory is not where"),
    Case("end-in-comment-cut", raw(archive(member("a"), comment=b"PK\x05\x06" + bytes(10))), "end record is missing"),
    Case("directory-too-large", made(member("a"), size=5000), "not where its end record says"),
    Case("directory-elsewhere", made(member("a"), offset=3), "not where its end record says"),
    Case("directory-of-one-more", made(member("a"), here=2, count=2), "its directory"),
    Case("directory-of-one-less", made(member("a"), member("b"), here=1, count=1), "another size than its end record"),
    Case("entry-spoiled", made(member("a", there={"signature": b"PK\x01\x03"})), "no entry"),
    Case("header-spoiled", made(member("a", here={"signature": b"PK\x03\x05"})), "no header before member 'a'"),
    Case("offset-behind", made(member("a", there={"offset": 1 << 30})), "has bytes before it"),
    Case("several-disks", made(member("a"), disk=1), "several disks"),
    Case("directory-on-another", made(member("a"), first=1), "several disks"),
    Case("part-of-the-entries", made(member("a"), count=2), "several disks"),
    Case("member-on-another", made(member("a", there={"disk": 1})), "is on another disk"),
    Case("extra-too-long", made(member("a", extra=b"\x01\x00\xff\x00abc")), "extra field"),
    Case("comment", made(member("a", b"1", comment=b"for this"), comment=b"for all"), gives={"a": b"1"}),
    Case("no-members", made(), empty=True),
    # zip64
    Case("zip64", made(wide("a", TEXT), zip64=True), gives={"a": TEXT}),
    Case("zip64-both-filled", made(member("a", b"1"), zip64=True, narrow={"here": 1, "count": 1}), gives={"a": b"1"}),
    Case("zip64-disagrees", made(member("a"), zip64=True, narrow={"count": 2}), "two end records disagree"),
    Case("zip64-locator", made(member("a"), zip64=True, locator=7), "zip64 end record is not where"),
    Case("zip64-disks", made(member("a"), zip64=True, disks=2), "several disks"),
    Case("zip64-field-missing", made(member("a", here=ABSENT, there=ABSENT)), "zip64 field is missing"),
    Case("zip64-field-short", made(member("a", extra=extra(1, bytes(8)), here=ABSENT, there=ABSENT)), "cut short"),
    Case("zip64-exabyte", made(member("a", extra=extra(1, b"\xff" * 16), here=ABSENT, there=ABSENT)), "limit for one"),
    Case("zip64-two-fields", made(member("a", extra=extra(1, bytes(16)) * 2, here=ABSENT, there=ABSENT)), "twice"),
    # data descriptors
    Case("descriptor", made(streamed("a", TEXT), streamed("b", b"")), gives={"a": TEXT, "b": b""}),
    Case("descriptor-bare", made(streamed("a", TEXT, signed=False), member("b")), gives={"a": TEXT, "b": b"x"}),
    Case("descriptor-wide", made(streamed("a", TEXT, wide=True), member("b")), gives={"a": TEXT, "b": b"x"}),
    Case("descriptor-wide-bare", made(streamed("a", TEXT, wide=True, signed=False)), gives={"a": TEXT}),
    Case("descriptor-wrong", made(streamed("a", TEXT, says=(1, 2, 3))), "after its data"),
    Case("descriptor-missing", made(member("a", TEXT, flags=8), member("b")), "after its data"),
    Case("descriptor-and-more", made(member("a", TEXT, flags=8, after=bytes(3000)), member("b")), "after its data"),
    Case("descriptor-of-another-sum", made(streamed("a", TEXT, crc=7), member("b")), "checksum is wrong"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_zip_is_taken_as_intended_or_leaves_nothing(case: Case, yard: Path) -> None:
    taken_as_intended_or_leaves_nothing(case, yard)


@pytest.mark.parametrize("case", [case for case in CASES if case.says], ids=lambda case: case.id)
def test_a_listing_and_a_merge_refuse_it_too(case: Case, yard: Path) -> None:
    refused_everywhere(case, yard)


def test_the_limit_for_all_members_counts_what_they_claim(tmp_path: Path) -> None:
    data = archive(member("a", TEXT), member("b", TEXT, size=5000))
    with pytest.raises(ArchiveError, match=r"more than 5,999 bytes \(at 'b'\)"):
        extract(io.BytesIO(data), tmp_path / "t", limits=Limits(total=5_999))
    assert build.names(tmp_path) == []


def test_names_that_would_fill_the_memory_are_cut_off(tmp_path: Path) -> None:
    count, entry = 17_000, member("d/" * 2_000 + "x").entry(0)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, count * len(entry), 4, 0)
    (tmp_path / "names.zip").write_bytes(b"PK\x03\x04" + entry * count + end)
    with pytest.raises(ArchiveError, match="names alone have more than 67,108,864 bytes"):
        extract(tmp_path / "names.zip", tmp_path / "t")
    assert build.names(tmp_path) == ["names.zip"]


def test_the_bomb_that_zipfile_reads_is_one(yard: Path) -> None:
    """The hand-made overlap is no broken file: where readers do not look for it, each member comes out."""
    data = quoted(20, 1 << 16)
    with zipfile.ZipFile(io.BytesIO(data)) as archive_:
        try:
            sizes = [len(archive_.read(info)) for info in archive_.infolist()]
        except zipfile.BadZipFile as error:
            assert "Overlapped" in str(error)  # noqa: PT017  (newer Pythons)
        else:
            assert sum(sizes) > 50 * len(data)


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
def test_a_zip_cut_anywhere_is_refused(cut: int, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        extract(io.BytesIO(GOOD[:cut]), tmp_path / "t")
    assert build.names(tmp_path) == []


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_a_zip_with_one_flipped_bit_gives_what_it_should_or_nothing(at: int, tmp_path: Path) -> None:
    """What may change unseen are fields that are not looked at: versions, dates, modes, systems."""
    try:
        extract(io.BytesIO(spoiled(GOOD, at)), tmp_path / "t")
    except ArchiveError:
        assert build.names(tmp_path) == []
    else:
        assert found_in(tmp_path / "t") == {"a.txt": b"hello"}


def test_a_stream_that_cannot_seek_has_no_zip_in_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, GOOD)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as stream, pytest.raises(ArchiveError, match="only be read from a file"):
        extract(stream, tmp_path / "t")


def test_a_zip_is_refused_where_only_tar_gz_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no gzip archive; it begins with 'PK"):
        extract(io.BytesIO(GOOD), tmp_path / "t", limits=Limits(formats=("tar.gz",)))


def test_linux_names_come_out_when_they_need_not_be_portable(tmp_path: Path) -> None:
    data = archive(member("README"), member("readme"), member("a\\b"), member(b"\xff\xfe"), member("line\nbreak"))
    extract(io.BytesIO(data), tmp_path / "t", limits=Limits(portable=False))
    assert sorted(found_in(tmp_path / "t")) == ["README", "a\\b", "line\nbreak", "readme", "\udcff\udcfe"]


def test_a_name_of_another_system_is_read_in_its_code_page(tmp_path: Path) -> None:
    extract(io.BytesIO(archive(member(b"na\x8bve", system=0))), tmp_path / "t")
    assert build.names(tmp_path / "t") == ["na\u00efve"]


def test_a_name_in_the_unicode_field_counts_while_it_belongs_to_the_name(tmp_path: Path) -> None:
    fits, stale = unicode_path(b"#U00fc", "\u00fc"), unicode_path(b"other", "../x")
    extract(io.BytesIO(archive(member(b"#U00fc", extra=fits), member(b"b", extra=stale))), tmp_path / "t")
    assert build.names(tmp_path / "t") == ["b", "\u00fc"]
