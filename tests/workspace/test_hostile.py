"""The hostile archives of the reliability study, one row each: what is refused leaves nothing, anywhere."""

from __future__ import annotations

import bz2
import io
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import Limits, extract, verify
from pytest_klavis.workspace.names import Links, folded
from pytest_klavis.workspace.reader import Reader

from . import buildzip
from .build import END, base256, extension, file, folder, hardlink, header, pax, symlink, targz, zeros
from .hostile import Builder, Case, found_in, refused_everywhere, taken_as_intended_or_leaves_nothing


def tar(*parts: bytes, end: bytes = END) -> Builder:
    return lambda _: targz(*parts, end=end)


def outside(make: Callable[[str], list[bytes]]) -> Builder:
    """An archive that names the directory of the canary by its absolute path."""
    return lambda place: targz(*make(str(place)))


def raw(data: bytes) -> Builder:
    return lambda _: data


def cut(data: bytes, keep: float) -> Builder:
    return lambda _: data[: int(len(data) * keep)]


def spoiled_crc(data: bytes) -> bytes:
    return data[:-8] + bytes((data[-8] ^ 1,)) + data[-7:]


NOISE = os.urandom(3000)
LONG = "d/" * 2100
GOOD = targz(file("./a.txt", b"hello"))

CASES = [
    # names
    Case("01-dotdot", tar(file("../canary")), "leaves the archive's root"),
    Case("02-dotdot-inside", tar(file("a/b/../../../canary")), "leaves the archive's root"),
    Case("03-absolute", outside(lambda to: [pax(path=f"{to}/canary"), file("x")]), "absolute path"),
    Case("04-two-slashes", tar(file("//etc/passwd")), "absolute path"),
    Case("05-drive", tar(file("C:\\x")), "backslash"),
    Case("06-backslash-dotdot", tar(file("..\\..\\x")), "backslash"),
    # symbolic links
    Case("07-link-absolute", outside(lambda to: [symlink("l", to)]), skips=("l",), empty=True),
    Case("08-link-dotdot", tar(symlink("l", "../outside")), skips=("l",), empty=True),
    Case("09-write-through", outside(lambda to: [symlink("l", to), file("l/canary")]), "below 'l'"),
    Case("10-write-through-relative", tar(symlink("l", "../outside"), file("l/canary")), "below 'l'"),
    Case(
        "11-chain",
        tar(folder("d"), symlink("d/up", ".."), symlink("out", "d/up/../outside/canary"), file("out")),
        "there twice",
    ),
    # hard links
    Case("12-hard-out", tar(hardlink("h", "../outside/canary")), "hard link whose target leaves"),
    Case("13-hard-absolute", outside(lambda to: [pax(linkpath=f"{to}/canary"), hardlink("h", "")]), "absolute path"),
    Case("14-hard-then-write", tar(hardlink("h", "../outside/canary"), file("h")), "hard link"),
    Case("15-hard-to-link", tar(symlink("l", "../outside/canary"), hardlink("h", "l")), skips=("h", "l"), empty=True),
    Case("16-hard-missing", tar(hardlink("h", "nothing")), "no file before it"),
    # special files
    Case("17-char-device", tar(header("c", b"3")), "character device"),
    Case("18-block-device", tar(header("b", b"4")), "block device"),
    Case("19-fifo", tar(header("f", b"6")), "FIFO"),
    # modes and owners
    Case("20-setuid", tar(file("s", b"x", mode=0o6777)), gives={"s": b"x"}),
    Case("21-world-writable", tar(file("w", b"x", mode=0o777)), gives={"w": b"x"}),
    Case("22-locked-directory", tar(folder("d", mode=0), file("d/a", b"x", mode=0)), gives={"d": "", "d/a": b"x"}),
    Case("23-foreign-uid", tar(file("u", b"x", uid=12345)), gives={"u": b"x"}),
    # twice
    Case("24-duplicate", tar(file("a", b"1"), file("./a", b"2")), "there twice"),
    Case("25-file-then-directory", tar(file("a"), folder("a/"), file("a/b")), "there twice"),
    Case("26-directory-then-link", tar(folder("d"), symlink("d", "../outside"), file("d/canary")), "there twice"),
    Case("27-case", tar(file("README"), file("readme")), "one file where case"),
    Case("28-accents", tar(file("caf\u00e9"), file("cafe\u0301")), "one file where case"),
    # names that deceive
    Case("29-bidi", tar(file("gpj.\u202eexe")), "changes how it reads"),
    Case("30-escape", tar(file("a\x1b[2Jb\n")), "control character"),
    Case("31-long-path", tar(extension(b"L", LONG.encode()), file("x")), "limit"),
    Case("32-long-part", tar(pax(path="p" * 256), file("x")), "more than 255 bytes"),
    Case("33-empty-name", tar(file("")), "empty name"),
    Case("34-dot-forms", tar(folder("."), folder("./"), file("./a", b"1"), folder("./d/"), file("d//./b", b"2")),
         gives={"a": b"1", "d": "", "d/b": b"2"}),
    Case("35-file-with-slash", tar(file("a/")), "ends like a directory's"),
    Case("36-reserved", tar(file("CON", b"1"), file("aux.txt", b"2"), file("a:b", b"3"), file("dot.", b"4")),
         gives={"CON": b"1", "aux.txt": b"2", "a:b": b"3", "dot.": b"4"}),
    Case("37-git-hook", tar(file(".git/hooks/pre-commit", b"#!")),
         gives={".git": "", ".git/hooks": "", ".git/hooks/pre-commit": b"#!"}),
    Case("38-conftest", tar(file("conftest.py", b"1"), file("sitecustomize.py", b"2")),
         gives={"conftest.py": b"1", "sitecustomize.py": b"2"}),
    # size
    Case("39-many", lambda _: targz(*(file(f"f{n}", b"") for n in range(1_001))), "more than 1,000 members"),
    Case("40-bomb", lambda _: zeros("z", 31 << 20), "bomb"),
    Case("40b-member", lambda _: zeros("z", 33 << 20), "limit for one"),
    Case("40c-total", tar(*(header(f"f{n}", size=30 << 20) + bytes(30 << 20) for n in range(3))), "more than"),
    # the stream
    Case("41-cut-gzip", cut(targz(file("a", NOISE)), 0.5), "cut short"),
    Case("42-crc", raw(spoiled_crc(GOOD)), "incorrect data check"),
    Case("43-garbage", raw(GOOD + b"garbage"), "belong to nothing"),
    Case("44-xml", raw(b"<?xml version='1.0'?><Error><Code>ExpiredToken"), "<?xml version"),
    Case("45-empty-tar", tar(), empty=True),
    Case("46-nothing", raw(b""), "empty (0 bytes)"),
    Case("47-second-member", raw(GOOD + targz(file("b"))), "second gzip member"),
    Case("48-cut-in-member", tar(header("a", size=5000) + bytes(1024), end=b""), "cut short"),
    # pax and numbers
    Case("49-pax-path", tar(pax(path="../canary"), file("innocent")), "leaves the archive's root"),
    Case("50-pax-size", tar(pax(size="-1"), file("a")), "size '-1'"),
    Case("51-negative-size", tar(header("a", size_field=base256(-512))), "negative size"),
    Case("52-sparse", tar(header("a", b"S", size=0)), "sparse"),
    Case("52b-pax-sparse", tar(pax(GNU__sparse__major="1", GNU__sparse__realsize="1099511627776"), file("a")),
         "sparse"),
    Case("52c-terabyte", tar(header("a", size_field=base256(1 << 40))), "limit for one"),
    # the shapes of the tarfile CVEs
    Case(
        "53-realpath-overflow",  # CVE-2025-4517: a chain too long for realpath, then a link and a write through it
        lambda _: targz(
            *(part for n in range(16) for part in _step(n)),
            symlink("/".join("ab"[n % 2] for n in range(16)) + "/up", "../" * 16),
            symlink("escape", "a/b/a/up/../../outside"),
            file("escape/canary"),
        ),
        "below",
    ),
    Case("54-link-to-parent", tar(folder("d"), symlink("d/l", ".."), symlink("m", "d/l/../outside/canary")),
         gives={"d": ""}, skips=("d/l", "m")),
    Case("55-hard-to-outer-link", tar(symlink("l", "../outside/canary"), hardlink("h", "l"), file("h")), "there twice"),
    Case("56-self-loop", tar(symlink("l", "l")), skips=("l",), empty=True),
    Case("57-own-root", tar(symlink("l", ".")), skips=("l",), empty=True),
    Case("58-nested-bomb", lambda _: targz(file("inner.tar.gz", zeros("z", 16 << 20))),
         gives={"inner.tar.gz": zeros("z", 16 << 20)}),
    Case("59-bzip2", raw(bz2.compress(b"".join((file("a"), END)))), "no gzip archive"),
    # dates and attributes
    Case("60-mtimes", tar(file("a", b"1", mtime=base256(-1)), file("b", b"2", mtime=base256(1 << 40))),
         gives={"a": b"1", "b": b"2"}),
    Case("61-xattrs", tar(pax(SCHILY__xattr__user__x="1", SCHILY__acl__access="u::rwx", uname="root"), file("a", b"1")),
         gives={"a": b"1"}),
    Case("62-unknown-type", tar(header("a", b"Q")), "unknown kind"),
    Case("63-directory-replaced", tar(folder("d"), file("d/a"), symlink("d", "/tmp")), "there twice"),
    Case("64-empty-hard-target", tar(file("a"), hardlink("h", "")), "empty name"),
    Case("65-dot-hard-target", tar(file("a"), hardlink("h", ".")), "no file before it"),
    Case("66-hard-to-directory", tar(folder("d"), hardlink("h", "d/")), "no file before it"),
    Case("67-empty-link-target", tar(symlink("l", "")), "link with the target"),
    Case("68-aregtype-slash", tar(header("d/", b"\0")), "ends like a directory's"),
    Case("69-cut-at-block", tar(file("a"), header("b", size=512), end=b""), "cut short"),
    Case("70-no-end", tar(file("a"), end=b""), "end marks are missing"),
    # beyond the study
    Case("71-one-end-mark", tar(file("a"), end=bytes(512)), "cut short in its end marks"),
    Case("72-after-the-end", tar(file("a"), end=END + file("b") + END), "goes on after its end"),
    Case("73-checksum", tar(header("a", spoil=True)), "checksum"),
    Case("74-nul-in-pax", tar(pax(path=b"a\0b"), file("x")), "NUL"),
    Case("75-global-path", tar(pax(b"g", path="x"), file("a")), "global header sets 'path'"),
    Case("76-global-comment", tar(pax(b"g", comment="0123"), file("a", b"1")), gives={"a": b"1"}),
    Case("77-pax-and-gnu", tar(extension(b"L", b"one\0"), pax(path="two"), file("x")), "two extension headers"),
    Case("78-directory-with-data", tar(header("d", b"5", size=512) + bytes(512)), "claims 512 bytes"),
    Case("79-pax-without-member", tar(pax(path="x")), "its member is missing"),
    Case("80-huge-pax", tar(pax(comment=bytes(2 << 20)), file("a")), "more than any name needs"),
    Case("81-deep", tar(pax(path="d/" * 150 + "x"), file("x")), "directories deep"),
    Case("82-hard-bomb", tar(file("a", bytes(1 << 20)), *(hardlink(f"h{n}", "a") for n in range(100))), "more than"),
    Case("83-link-through-link", tar(symlink("l", "/"), symlink("m", "l/etc/passwd")), skips=("l", "m"), empty=True),
    Case("84-octal", tar(header("a", size_field=b"0000000009x\0")), "no number"),
    Case("85-pax-length", tar(extension(b"x", b"99 path=x\n"), file("a")), "wrong length"),
    Case("86-inner-links", tar(file("d/a", b"1"), symlink("d/b", "a"), symlink("c", "d/b"), hardlink("h", "./d/a")),
         gives={"d": "", "d/a": b"1", "d/b": "a", "c": "d/b", "h": b"1"}),
    Case("87-gnu-names", tar(extension(b"L", b"n" * 120 + b"\0"), file("short", b"1"),
                             extension(b"K", b"n" * 120 + b"\0"), symlink("l", "short")),
         gives={"n" * 120: b"1", "l": "n" * 120}),
    Case("88-ustar-prefix", tar(file("b", b"1", prefix=b"a")), gives={"a": "", "a/b": b"1"}),
    Case("89-not-utf8", tar(file(b"\xff\xfe", b"1"), pax(path=b"\xe9"), file("x", b"2")),
         gives={"\udcff\udcfe": b"1", "\udce9": b"2"}),
    Case("90-hard-to-inner-link", tar(file("a", b"1"), symlink("l", "a"), hardlink("d/h", "l"), hardlink("k", "l"),
                                      hardlink("k2", "k")),
         gives={"a": b"1", "l": "a", "d": "", "d/h": "a", "k": "a", "k2": "a"}, skips=()),
    Case("91-write-through-hard", tar(folder("d"), symlink("l", "d"), hardlink("h", "l"), file("h/a")), "below 'h'"),
    Case("92-hard-to-itself", tar(hardlink("h", "h")), "no file before it"),
    Case("93-case-the-other-way", tar(file("readme"), file("README")), "one file where case"),
    Case("94-case-of-neither", tar(file("Readme"), file("README")), "one file where case"),
    Case("95-case-above", tar(file("SRC/a"), file("src/b")), "one file where case"),
]  # fmt: skip


def _step(n: int) -> list[bytes]:
    above = "/".join("ab"[i % 2] for i in range(n))
    return [folder(f"{above}/{'ab'[n % 2]}".lstrip("/"))]


def test_every_archive_of_the_study_has_a_case() -> None:
    assert {int(case.id[:2]) for case in CASES} >= set(range(1, 71))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_archive_is_taken_as_intended_or_leaves_nothing(case: Case, yard: Path) -> None:
    taken_as_intended_or_leaves_nothing(case, yard)


@pytest.mark.parametrize("case", [case for case in CASES if case.says], ids=lambda case: case.id)
def test_a_listing_and_a_merge_refuse_it_too(case: Case, yard: Path) -> None:
    refused_everywhere(case, yard)


def test_names_that_linux_allows_come_out_when_they_need_not_be_portable(tmp_path: Path) -> None:
    data = targz(file("README", b"1"), file("readme", b"2"), file("a\\b", b"3"), file("line\nbreak", b"4"))
    extract(io.BytesIO(data), tmp_path / "t", limits=Limits(portable=False))
    assert found_in(tmp_path / "t") == {"README": b"1", "readme": b"2", "a\\b": b"3", "line\nbreak": b"4"}


def test_a_link_tree_made_to_cost_hours_is_cut_off(tmp_path: Path) -> None:
    far = "/".join(["x"] * 90 + [".."] * 90)
    links = [part for n in range(3_000) for part in (pax(linkpath=f"l{n + 1}/{far}"), symlink(f"l{n}", ""))]
    result = extract(io.BytesIO(targz(*links)), tmp_path / "t")
    assert any("too many long links" in why for _, why in result.skipped)


def test_each_step_and_each_target_of_a_link_is_paid_for() -> None:
    """What costs time is the text that is joined, folded and split, not the number of steps."""
    wide = "\u00e9" * 2_000
    chain = {f"b{n}": f"b{n + 1}/{wide}" for n in range(37)} | {"b37": wide}
    found = Links(chain | {"c": "b0" + "/x/.." * 800}, budget=1_000_000)
    assert found.objection("c") == "a link of a tree with too many long links"

    loop = {"a": "a" + "/." * 2_000} | {f"l{n}": "a" for n in range(20)}
    known = Links(loop, budget=5_000_000)
    whys = [known.objection(path) for path in loop]
    assert whys[0] == "a link that leads back to itself"
    assert whys[-1] == "a link of a tree with too many long links"


def test_a_path_folds_component_by_component() -> None:
    for path in ("\u0338/\u0338a", "cafe\u0301/\u0301x/\u00c9", "\u1f82/\u0345", "a/\udcff\u00df"):
        whole = unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
        assert folded(path) == whole


def test_a_link_is_found_behind_a_name_that_folds_to_its_own() -> None:
    links = {"L": "d", "x": "l/../../out", "y": "./l//./f", "z": "d/./../l"}
    known = Links(links)
    assert [known.objection(path) for path in "xyz"] == ["a link that leads outside", None, None]


def test_the_reason_of_a_link_can_be_printed_and_logged() -> None:
    data = targz(pax(linkpath=b"/x\x1b]0;pwned\x07\n\xff\xe2\x80\xae"), symlink("l", ""))
    ((path, why),) = verify(io.BytesIO(data)).skipped
    assert (path, why) == ("l", "an absolute link: /x\\x1b]0;pwned\\x07\\x0a\\xff\\u202e")


DEEP = "/".join(["x" * 40] * 98)


def _members(name: str) -> Iterator[bytes]:
    for number in range(400):
        yield pax(path=name.format(n=number) + DEEP) + file("f", b"")


def _zip_of(name: str) -> bytes:
    return buildzip.archive(
        *(buildzip.member(name.format(n=number) + DEEP, flags=buildzip.UTF8) for number in range(400))
    )


@pytest.mark.parametrize("name", ["{n}/", "\U0001f600{n}/", "A{n}/"])
@pytest.mark.parametrize("make", [lambda name: targz(*_members(name)), _zip_of], ids=["tar", "zip"])
def test_directories_that_are_only_implied_count_as_names(make: Callable[[str], bytes], name: str) -> None:
    """Some kilobytes would need gigabytes: 200,000 members of 4 KB each."""
    with pytest.raises(ArchiveError, match="names alone have more than 67,108,864 bytes"):
        verify(io.BytesIO(make(name)))


def test_targets_of_links_count_as_names() -> None:
    target = "/".join(["x" * 40] * 98)
    first = pax(linkpath=target) + symlink("l", "")
    with pytest.raises(ArchiveError, match="names alone"):
        verify(io.BytesIO(targz(first, *(hardlink(f"h{n}", "l") for n in range(17_000)))))


def test_names_of_an_honest_tree_are_few() -> None:
    """Each directory counts once, however many files are in it, and a fold only where it is another text."""
    reader = Reader(io.BytesIO(targz(file("d/a"), file("d/b"), file("C"), symlink("l", "d/a"))), Limits())
    assert [entry.path for entry in reader] == ["d/a", "d/b", "C", "l"]
    assert reader._names == sum(map(len, ("d", "d/a", "d/b", "C", "c", "l", "d/a")))
