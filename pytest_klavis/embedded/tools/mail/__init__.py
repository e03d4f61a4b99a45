"""The mail server's tools, after emails-mcp 0.1.12, over the sandbox's real mailboxes.

Ids are numbers of messages in the folder that was listed or searched last, as upstream's are; an agent that connects
anew for each call keeps that folder. Looking at a message in any way marks it as read, as upstream does. What
cannot be done is told as text, as upstream does; credentials that are not the sandbox's are an error.
"""

from typing import Any

from pytest_klavis.embedded.tools.mail import drafts, files, folders, reading, sending, sorting
from pytest_klavis.embedded.tools.schema import Flavour

_FUNCTIONS = (
    *(reading.get_emails, reading.read_email, reading.search_emails),
    *(sending.send_email, sending.reply_email, sending.forward_email),
    *(sorting.delete_email, sorting.move_email, sorting.mark_emails),
    *(sorting.move_emails, sorting.delete_emails),
    *(folders.get_folders, folders.create_folder, folders.delete_folder),
    *(folders.get_mailbox_stats, folders.get_unread_count),
    *(reading.check_connection, reading.get_email_headers),
    *(drafts.save_draft, drafts.get_drafts, drafts.update_draft, drafts.delete_draft),
    *(files.export_emails, files.import_emails, files.download_attachment),
)
_RESULT: dict[str, Any] = {"properties": {"result": {"type": "string"}}, "required": ["result"], "type": "object"}

FLAVOUR = Flavour(
    {function.__name__: function for function in _FUNCTIONS},
    outputs={function.__name__: _RESULT for function in _FUNCTIONS},
    strict=False,
)
