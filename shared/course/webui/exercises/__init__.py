"""The exercises of lab 3.3.6, in the order of its notebook. All but the last are functions in files of webui/."""

from shared.course.webui.exercises import guard_and_search, memory, reader_and_pacer, stop_and_lines

CORE = (
    stop_and_lines.LINES_OF_PYTHON, stop_and_lines.STOP, reader_and_pacer.LINES, reader_and_pacer.PACER,
    guard_and_search.REFUSAL, memory.CONTEXT,
)  # fmt: skip
EXERCISES = (*CORE, guard_and_search.SEARCH)
