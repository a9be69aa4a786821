"""What lab 3.3.4 measures on running engines, with and without drafts.

    drafts, flags = experiments.drafts_of("llamacpp", model, sizes), experiments.FLAGS["llamacpp"]
    engines = [launch("llamacpp", model, flags, draft=draft, when_needed=True, beside=True) for draft in drafts]
    with together(engines) as turns:
        for number, engine in turns(sizes.rounds):
            experiments.speed(lab, engine, number, sizes)

Each round asks plain decoding and every draft the same questions, in turn, so that a change of the machine's speed
meets all of them. The questions are held out from the head's training, and asked exactly as in its training: without
the nonce of other labs, because a head that has never seen one accepts less. So prefix caches are off (FLAGS).

An answer has `Sizes.tokens` tokens, exactly. Only questions to which the model itself wrote at least so many tokens are
asked. With the end-of-text token suppressed, a shorter answer would run into repetitions, and those are easy to draft.
"""

from shared.course.labs import OpenLab
from shared.course.speculation.eagle3.training_text import GROUPS as GROUPS
from shared.course.speculation.on_engines.drafts_here import FLAGS as FLAGS
from shared.course.speculation.on_engines.drafts_here import PLAIN as PLAIN
from shared.course.speculation.on_engines.drafts_here import Sizes, name_of
from shared.course.speculation.on_engines.drafts_here import draft as draft
from shared.course.speculation.on_engines.drafts_here import drafts_of as drafts_of
from shared.course.speculation.on_engines.drafts_here import few_drafts as few_drafts
from shared.course.speculation.on_engines.drafts_here import rejected_drafts as rejected_drafts
from shared.course.speculation.on_engines.drafts_here import sizes as sizes
from shared.course.speculation.on_engines.positions import positions as positions
from shared.course.speculation.on_engines.questions import HELD_OUT, Questions
from shared.course.speculation.on_engines.questions import questions_of as questions_of
from shared.course.speculation.on_engines.text_check import check_text as check_text
from shared.course.speculation.on_engines.text_check import load_reference as load_reference
from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.loads import Closed, Load
from shared.metrics.summary import Summary


def speed(
    lab: OpenLab,
    engine: Engine,
    number: int,
    sizes: Sizes,
    *,
    group: str = HELD_OUT,
    users: int = 1,
    temperature: float = 0,
) -> Summary:
    """Measure one round of one load on a running engine, whatever drafts it has.

    Each round has other questions; plain decoding and all drafts get the same ones. What the figures mean is defined
    in `speedups`. Raises LabError if the engine would verify drafts greedily although a temperature is asked for.
    """
    engine.check_temperature(temperature)
    asked = Questions(group, engine.model, questions_of(group, sizes.tokens), first=(number - 1) * users)
    one = Load(engine, asked, Closed(users, users), sizes.tokens, sizes.warm_up, temperature=temperature)
    hot = f"/temperature-{temperature:g}" if temperature else ""
    where = f"{engine.spec.name}/{name_of(engine.draft)}/{group.replace(' ', '-')}/users-{users}{hot}"
    return lab.measure(f"speed/{where}/round-{number}", one)


def speeds(
    lab: OpenLab,
    engine: Engine,
    number: int,
    sizes: Sizes,
    users: tuple[int, ...] = (1,),
    groups: tuple[str, ...] = (HELD_OUT,),
) -> None:
    """Measure one round of these loads on a running engine: for each number of users, each group of questions.

    The first of `users` has every round. The others have the first `Sizes.few_rounds`, because in each of them so many
    answers are measured already.
    """
    for count in users if number <= sizes.few_rounds else users[:1]:
        for group in groups:
            speed(lab, engine, number, sizes, users=count, group=group)


def synthetic(lab: OpenLab, engine: Engine, number: int, sizes: Sizes) -> Summary:
    """Measure a round with drafts that llama.cpp accepts at random, whatever they are: this is cost without acceptance.

    With `synthetic_length=1` none is accepted, so each step makes one token: the time of a token is that of k drafts
    and one verification. The text is not the model's.
    """
    if engine.draft is None or engine.draft.synthetic_length is None:
        raise LabError("This engine has no synthetic acceptance.", "launch it with a draft of synthetic_length=1")
    asked = Questions(HELD_OUT, engine.model, questions_of(HELD_OUT, sizes.tokens))
    one = Load(engine, asked, Closed(1, 1), sizes.tokens, sizes.warm_up)
    made = f"{engine.draft.kind}-{engine.draft.tokens}/length-{engine.draft.synthetic_length:g}"
    return lab.measure(f"synthetic/{engine.spec.name}/{made}/round-{number}", one)
