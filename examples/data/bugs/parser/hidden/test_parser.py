import unittest

from parser import parse


class TestParser(unittest.TestCase):
    def test_simple(self):
        self.assertEqual(parse("a = 1\nb = 2"), {"a": "1", "b": "2"})

    def test_value_with_equals_sign(self):
        self.assertEqual(parse("url = x?a=b"), {"url": "x?a=b"})

    def test_blank_lines(self):
        self.assertEqual(parse("a=1\n\n"), {"a": "1"})


if __name__ == "__main__":
    unittest.main()
