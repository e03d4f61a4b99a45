"""A ledger of money in and out, in cents."""


class Ledger:
    def __init__(self, entries=[]):
        self.entries = entries

    def add(self, amount):
        self.entries.append(amount)

    def balance(self):
        return sum(self.entries)
