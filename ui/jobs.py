"""Threads for the work of pages, so that no session waits for another's: many that are short, few that are long."""

from concurrent.futures import ThreadPoolExecutor

LIGHT = ThreadPoolExecutor(8, thread_name_prefix="actlake-page")
"""What takes milliseconds: a page of rows, a generation's tokens."""

MOST_QUERIES = 4
QUERIES = ThreadPoolExecutor(MOST_QUERIES, thread_name_prefix="actlake-query")
"""People's SQL, each in a process of its own; who comes fifth waits."""

FACTORS = ThreadPoolExecutor(2, thread_name_prefix="actlake-factors")
"""Factorizations of the corpus, which take seconds to hours; who comes third waits."""
