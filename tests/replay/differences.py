"""The differences from the real servers that we know and keep, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compare import Aspect


@dataclass(frozen=True)
class Difference:
    """`calls` as "table/scenario/label". A listed difference that has gone fails the call."""

    reason: str
    aspects: tuple[Aspect, ...]
    calls: tuple[str, ...]


KNOWN: tuple[Difference, ...] = (
    Difference(
        "A count that makes no sense is refused; upstream answers with nothing, as if the file were empty.",
        ("outcome", "shape", "words"),
        (
            "filesystem/reading text/negative head",
            "filesystem/reading text/negative tail",
        ),
    ),
    Difference(
        "A link is moved as such; upstream moves what it leads to and leaves a link that dangles, or refuses.",
        ("workspace",),
        ("filesystem/moving/a link",),
    ),
    Difference(
        "A link is moved as such; upstream moves what it leads to and leaves a link that dangles, or refuses.",
        ("outcome", "shape", "words", "workspace"),
        ("filesystem/moving/a dangling link",),
    ),
    Difference(
        "The destination is named as it was asked for; upstream follows the link first.",
        ("words",),
        (
            "filesystem/moving/onto a link",
            "filesystem/moving/onto a dangling link",
        ),
    ),
    Difference(
        "No extended globs: what we match takes time linear in the pattern; tools/glob.py lists what there is.",
        ("words",),
        (
            "filesystem/searching/extglob",
            "filesystem/searching/named class",
        ),
    ),
    Difference(
        "Paths are named as they were asked for; upstream answers with the place that the link leads to.",
        ("words",),
        (
            "filesystem/editing/through a link",
            "filesystem/searching/through a link",
        ),
    ),
    Difference(
        "The size of what a link leads to outside of the workspace is not told.",
        ("words",),
        (
            "filesystem/listing/sizes",
            "filesystem/listing/sizes by name",
        ),
    ),
    Difference(
        "Another diff where several are right: two equal lines next to each other.",
        ("words",),
        ("filesystem/editing/only the first of several",),
    ),
    Difference(
        "What lies outside of the workspace is not looked at, so its names are not completed.",
        ("words",),
        (
            "filesystem/reading text/folder link that leads out",
            "filesystem/reading text/home",
            "filesystem/writing/through a link that leads out",
            "filesystem/listing/parent",
        ),
    ),
    Difference(
        "A link that leads nowhere is said to lead to no file; upstream says that the parent directory is "
        "missing, which is there.",
        ("words",),
        (
            "filesystem/reading text/dangling link",
            "filesystem/writing/through a dangling link",
            "filesystem/making directories/a dangling link",
            "filesystem/file information/a dangling link",
        ),
    ),
    Difference(
        "Which system call failed: ours opens in one step where upstream asks for the real path first; and "
        "ours names the path.",
        ("words",),
        (
            "filesystem/reading text/below a file",
            "filesystem/reading text/a directory",
            "filesystem/reading text/link in a circle",
            "filesystem/reading text/empty path",
            "filesystem/reading by the old name/a directory",
            "filesystem/reading media/a directory",
            "filesystem/reading several files/one is a directory",
            "filesystem/writing/below a file",
            "filesystem/writing/onto a directory",
            "filesystem/writing/the root",
            "filesystem/writing/name too long",
            "filesystem/editing/a directory",
            "filesystem/making directories/below a file",
            "filesystem/making directories/name too long",
            "filesystem/file information/below a file",
        ),
    ),
    Difference(
        "Before the first commit a reset empties the index; upstream leaves a damaged one.",
        ("outcome", "words", "workspace"),
        (
            "git/reset in an empty repository/reset",
            "git/reset in an empty repository/add",
            "git/reset in an empty repository/reset of what is staged",
        ),
    ),
    Difference(
        "Ranges are taken, as the build that Klavis serves does; upstream's newest refuses them.",
        ("outcome", "words"),
        (
            "git/reading a dirty tree/diff of two",
            "git/reading a dirty tree/diff since they parted",
        ),
    ),
    Difference(
        "It is said what is missing and where the repository is; upstream repeats the path.",
        ("words",),
        (
            "git/reading a dirty tree/status of a folder in it",
            "git/reading a dirty tree/status of no repository",
            "git/reading a dirty tree/status of what is missing",
            "git/reading a dirty tree/status of a file",
            "git/reading a dirty tree/status outside",
            "git/reading a dirty tree/unstaged of no repository",
            "git/reading a dirty tree/staged of no repository",
            "git/reading a dirty tree/diff of no repository",
            "git/log/of no repository",
            "git/show/of no repository",
            "git/add, commit, reset/reset of no repository",
            "git/add, commit, reset/commit of no repository",
            "git/branches/of no repository",
            "git/branches/check out of no repository",
        ),
    ),
    Difference(
        "A commit is shown as git shows it, with the headers that name what was added, renamed and deleted; "
        "of errors, the reference.",
        ("words",),
        (
            "git/show/HEAD, a merge",
            "git/show/third",
            "git/show/second",
            "git/show/first",
            "git/show/annotated tag",
            "git/show/branch",
            "git/show/branch with a slash",
            "git/show/missing file",
            "git/show/too far back",
            "git/an empty repository/show now",
        ),
    ),
    Difference(
        "Git's own words about a name that cannot be a branch; upstream's are GitPython's.",
        ("words",),
        (
            "git/branches/create a bad name",
            "git/branches/create a name with a space",
            "git/branches/create nothing",
        ),
    ),
    Difference(
        "The allowed words are named too.",
        ("words",),
        ("git/branches/of a wrong type",),
    ),
    Difference(
        "The same refusal: ours by the tool, upstream's by the schema.",
        ("words",),
        ("git/add, commit, reset/add nothing",),
    ),
    Difference(
        "Before the first commit, errors in git's words; upstream's are GitPython's about missing references.",
        ("words",),
        (
            "git/an empty repository/log",
            "git/an empty repository/create a branch",
        ),
    ),
    Difference(
        "What git said, without the frame of GitPython with its command line.",
        ("words",),
        (
            "git/add, commit, reset/add what is ignored",
            "git/add, commit, reset/add what is missing",
            "git/add, commit, reset/add a good and a missing one",
            "git/add, commit, reset/add a flag",
            "git/branches/containing what is unknown",
            "git/branches/containing nothing",
            "git/check out over changes/over changes",
        ),
    ),
    Difference(
        "The rules are those of this sandbox.",
        ("words",),
        (
            "terminal/rules/rules",
            "terminal/rules/rules with an argument",
            "terminal/rules/rules again",
        ),
    ),
    Difference(
        "The shell may go where it likes: isolation keeps it in, not a look at the words of a command.",
        ("shape", "words"),
        (
            "terminal/commands/parent",
            "terminal/commands/outside",
        ),
    ),
    Difference(
        "Longer commands are taken.",
        ("shape", "words"),
        ("terminal/commands/longer than upstream takes",),
    ),
    Difference(
        "What is refused is an error for the client too; upstream only marks the block of content.",
        ("outcome", "shape"),
        (
            "terminal/commands/empty",
            "terminal/commands/only spaces",
        ),
    ),
    Difference(
        "A real shell reads every command; upstream splits it by itself unless it holds an operator, and "
        "stumbles over quotes.",
        ("shape", "words"),
        (
            "terminal/commands/exit code",
            "terminal/commands/to stderr",
            "terminal/commands/missing program",
            "terminal/commands/glob without an operator",
            "terminal/commands/unclosed quote",
        ),
    ),
    Difference(
        "A real shell reads every command; upstream splits it by itself unless it holds an operator, and "
        "stumbles over quotes.",
        ("words",),
        ("terminal/commands/variable without an operator",),
    ),
    Difference(
        "Words of the command stay as they are; upstream replaces paths by whole ones.",
        ("words",),
        (
            "terminal/commands/search",
            "terminal/commands/find",
        ),
    ),
    Difference(
        "Output that is no UTF-8 is shown with replacement characters; upstream fails.",
        ("shape", "words"),
        ("terminal/commands/bytes",),
    ),
    Difference(
        "A command's input is empty; upstream's is its own channel to the client, so that it waits.",
        ("shape", "words"),
        ("terminal/commands/no input",),
    ),
    Difference(
        "A signal is told as a shell does: 128 and its number.",
        ("words",),
        ("terminal/commands/killed by a signal",),
    ),
    Difference(
        "Keys that the schema does not know are not kept.",
        ("shape", "words", "workspace"),
        ("localmemory 2025.8.4/malformed/extra keys",),
    ),
    Difference(
        "Arguments are checked against the schema; upstream takes what it gets, and fails in JavaScript's "
        "words or loses data.",
        ("outcome", "shape", "words", "workspace"),
        (
            "localmemory 2025.8.4/malformed/observations as text",
            "localmemory 2025.8.4/malformed/without a kind",
        ),
    ),
    Difference(
        "Arguments are checked against the schema; upstream takes what it gets, and fails in JavaScript's "
        "words or loses data.",
        ("words",),
        (
            "localmemory 2025.8.4/malformed/entities as text",
            "localmemory 2025.8.4/malformed/no entities given",
            "localmemory 2025.8.4/malformed/no relations to create",
            "localmemory 2025.8.4/malformed/without contents",
            "localmemory 2025.8.4/malformed/no observations given",
            "localmemory 2025.8.4/malformed/search a number",
            "localmemory 2025.8.4/malformed/search without a query",
            "localmemory 2025.8.4/malformed/open without names",
            "localmemory 2025.8.4/malformed/no list of observations",
            "localmemory 2025.8.4/malformed/no deletions given",
            "localmemory 2025.8.4/malformed/no relations to delete",
            "localmemory 2025.8.4/malformed/no names given",
        ),
    ),
    Difference(
        "Arguments are checked against the schema; upstream takes what it gets, and fails in JavaScript's "
        "words or loses data.",
        ("outcome", "shape", "words"),
        (
            "localmemory 2025.8.4/malformed/open text",
            "localmemory 2025.8.4/malformed/without observations",
        ),
    ),
    Difference(
        "Arguments are checked against the schema; upstream takes what it gets, and fails in JavaScript's "
        "words or loses data.",
        ("outcome", "words"),
        ("localmemory 2025.8.4/malformed/a relation without an end",),
    ),
    Difference(
        "Arguments are checked against the schema; upstream takes what it gets, and fails in JavaScript's "
        "words or loses data.",
        ("outcome", "words", "workspace"),
        ("localmemory 2025.8.4/malformed/text for a list",),
    ),
    Difference(
        "It is said which line is damaged and what to do.",
        ("words",),
        (
            "localmemory 2025.8.4/damaged/read",
            "localmemory 2025.8.4/damaged/create",
            "localmemory 2025.8.4/damaged/search",
            "localmemory 2025.11.25/damaged/read",
            "localmemory 2025.11.25/damaged/create",
            "localmemory 2025.11.25/damaged/search",
        ),
    ),
    Difference(
        'Klavis\'s build answers without the word "type" in entities and relations, as its schema says.',
        ("shape", "words"),
        (
            "localmemory 2025.11.25/growing/read all",
            "localmemory 2025.11.25/reading/graph",
            "localmemory 2025.11.25/reading/graph with an argument",
            "localmemory 2025.11.25/reading/search a name",
            "localmemory 2025.11.25/reading/search in another case",
            "localmemory 2025.11.25/reading/search a kind",
            "localmemory 2025.11.25/reading/search an observation",
            "localmemory 2025.11.25/reading/search a part",
            "localmemory 2025.11.25/reading/search everything",
            "localmemory 2025.11.25/reading/open one",
            "localmemory 2025.11.25/reading/open two",
            "localmemory 2025.11.25/reading/open in another order",
            "localmemory 2025.11.25/reading/open the same twice",
            "localmemory 2025.11.25/reading/open one known of two",
            "localmemory 2025.11.25/shrinking/the graph is smaller",
        ),
    ),
    Difference(
        "Files that code makes are readable by their owner only.",
        ("workspace",),
        ("code-runner/runs/a file is written",),
    ),
    Difference(
        "It is said what this sandbox can run; and what the shell says about what it cannot.",
        ("words",),
        ("code-runner/runs/a language that is not installed",),
    ),
    Difference(
        "pypdf's words; upstream uses its predecessor PyPDF2, and keeps some of them to itself.",
        ("words",),
        (
            "pdf-tools/reading/no PDF",
            "pdf-tools/reading/cut off",
            "pdf-tools/reading/another extension",
            "pdf-tools/reading/information on no PDF",
            "pdf-tools/making/merge what is no PDF",
            "pdf-tools/making/extract of no PDF",
            "pdf-tools/searching/a bad pattern",
            "pdf-tools/searching/in what is missing",
            "pdf-tools/searching/in no PDF",
        ),
    ),
    Difference(
        "Only files of the workspace can be attached.",
        ("words",),
        ("mail/sending/a file outside",),
    ),
    Difference(
        "Copies in Sent have a date, and files are counted whatever their names; upstream's have none, and "
        "miss names with umlauts.",
        ("words",),
        (
            "mail/sending/inbox",
            "mail/sending/sent",
            "mail/sending/inbox at the end",
            "mail/reading/search in a folder",
        ),
    ),
    Difference(
        "An attachment has the media type of its name.",
        ("words",),
        ("mail/reading/read files",),
    ),
    Difference(
        "Date and Message-ID come last, as our side writes them itself; upstream leaves them to the server.",
        ("words",),
        (
            "mail/reading/headers",
            "mail/reading/headers with umlauts",
        ),
    ),
    Difference(
        "What is not there is said not to be changed; upstream counts it.",
        ("words",),
        (
            "mail/keeping/mark what is missing",
            "mail/keeping/move what is missing",
            "mail/keeping/delete several",
        ),
    ),
    Difference(
        "Exports hold the media types that attachments have by their names.",
        ("workspace",),
        (
            "mail/drafts and files/export",
            "mail/drafts and files/export one",
            "mail/drafts and files/export to outside",
        ),
    ),
    Difference(
        "One way of forwarding, so one frame around its errors.",
        ("words",),
        ("mail/sending/forward to nobody",),
    ),
    Difference(
        "It is said that there is no such email or folder.",
        ("words",),
        (
            "mail/sending/reply to nothing",
            "mail/sending/forward nothing",
            "mail/reading/read nothing",
            "mail/reading/read a word",
            "mail/reading/headers of nothing",
            "mail/reading/an attachment of nothing",
            "mail/keeping/the same folder",
        ),
    ),
)


def expected(key: str, label: str) -> dict[Aspect, str]:
    """The aspects in which this call differs, with the reasons."""
    path = f"{key}/{label}"
    return {aspect: one.reason for one in KNOWN if path in one.calls for aspect in one.aspects}
