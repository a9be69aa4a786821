"""The exercises of lab 3.3.6, in the order of its notebook. Those with a file are functions in webui/."""

from shared.course.webui.exercises import guard_and_search, memory, open_webui, reader_and_pacer, stop_and_lines

CORE = (
    memory.CONTEXT, stop_and_lines.LINES_OF_PYTHON, stop_and_lines.STOP, reader_and_pacer.LINES,
    reader_and_pacer.PACER, guard_and_search.REFUSAL,
)  # fmt: skip
EXERCISES = (*CORE, guard_and_search.SEARCH, *open_webui.EXERCISES)
