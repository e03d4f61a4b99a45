import unittest

from ledger import Ledger


class TestLedger(unittest.TestCase):
    def test_ledgers_are_separate(self):
        one, other = Ledger(), Ledger()
        one.add(500)
        self.assertEqual(other.balance(), 0)

    def test_balance(self):
        ledger = Ledger()
        ledger.add(500)
        ledger.add(-200)
        self.assertEqual(ledger.balance(), 300)


if __name__ == "__main__":
    unittest.main()
