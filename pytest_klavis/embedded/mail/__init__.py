"""Mail for sandboxes: the mail process, its accounts, and what is put into and taken out of them."""
