"""The exercise `speculate`, the loop: draft, verify and roll back.

The test of the loop gives it a target, a proposer and a `verify` that know what the text must be at each moment. So a
mistake is found in the call in which it happens, not in a text that differs later.
"""

import random
from collections.abc import Sequence

import numpy as np

from shared.course.exercise import Exercise, Function, Wrong, short
from shared.course.speculation.draft_and_verify import Array, one_hot
from shared.course.speculation.exactness import ToyModel, ToyTarget

VOCABULARY = 6


class Watched:
    """One run of a student's loop: target, proposer and verify in one, watching each call."""

    def __init__(self, seed: int, prompt: Sequence[int], max_tokens: int, k: int) -> None:
        self.model, self.k = ToyModel(seed, VOCABULARY), k
        self.target = ToyTarget(self.model, len(prompt) + max_tokens)
        self.target.prefill(prompt[:-1])
        self.room = self.target.room
        self.prompt, self.prompt_tokens = prompt, len(prompt)  # the list that the student's loop is given
        self.text = list(prompt)  # the prompt, and all that verify has returned
        self.new: list[int] = []  # what verify returned last
        self.drafts: list[int] | None = None  # proposed, and not verified yet
        self.q = self.p = one_hot([], VOCABULARY)
        self.steps, self.rolled_back, self.fewer = 0, False, False
        self.passed = False  # whether the pass of this step is over, and its drafts are not verified yet

    @property
    def length(self) -> int:
        return self.target.length

    def best(self, tokens: Sequence[int]) -> int:
        return int(self.model.after(tokens).argmax())

    def propose(self, tokens: Sequence[int], k: int) -> tuple[list[int], Array]:
        given = [int(token) for token in tokens]
        if given != self.text:
            self._wrong_text(given)
        if len(self.prompt) != self.prompt_tokens:
            raise Wrong("The prompt has grown with the text: `tokens = prompt` makes no copy, list(prompt) does.")
        left = self.room - len(self.text)
        if k > left - 1:
            raise Wrong(
                f"Tokens of the answer that are missing: {left}. Drafts that yours asks for: {k}. A step adds one "
                "token more than it accepts, so the answer would become too long, and the cache has no room for it. "
                "Ask for fewer drafts near the end."
            )
        if k > self.k or k < 0:
            raise Wrong(f"Yours asks for {k} drafts; at most {self.k} were wanted.")
        if k < min(self.k, left - 1):
            raise Wrong(
                f"Tokens of the answer that are missing: {left}. Drafts that yours asks for: {k}. More could be used: "
                f"{min(self.k, left - 1)}."
            )
        drafts: list[int] = []
        right = (1, k, 0)[self.steps % 3]  # some, all and none accepted, whatever chance decides
        self.fewer = k > 1 and self.steps % 5 == 3  # as an n-gram look-up, which often finds less than is asked for
        for place in range(k - self.fewer):
            best = self.best([*given, *drafts])
            drafts.append(best if place < right else (best + 1) % VOCABULARY)
        self.drafts, self.q = drafts, one_hot(drafts, VOCABULARY)
        return list(drafts), self.q.copy()

    def append(self, tokens: Sequence[int]) -> Array:
        given = [int(token) for token in tokens]
        if self.drafts is None and self.room - len(self.text) == 1:
            self.drafts, self.q = [], one_hot([], VOCABULARY)  # one token is missing, so no draft could be used
        if self.drafts is None and not self.steps and len(given) > 1 and given == self.text[: len(given)]:
            raise Wrong(
                "The cache holds all tokens of the prompt but the last from the beginning: don't add them again."
            )
        if self.drafts is None:
            raise Wrong("Each pass needs its own drafts: call proposer.propose(tokens, k) before target.append.")
        self._check_cache()
        if given == self.drafts:
            raise Wrong(
                "The pass begins with the first draft, but the newest token of the text is not in the cache yet. It "
                "comes first: its row is the distribution of the first draft."
            )
        if len(given) > len(self.drafts) + 1 and given == [*self.text, *self.drafts][-len(given) :]:
            raise Wrong(
                "The pass computes tokens again that the cache holds. It holds all of the text but the newest token: "
                "append that one and the drafts."
            )
        if self.drafts and given == [self.text[-1]]:
            raise Wrong(
                "The pass has one token. A draft pays because a single pass verifies all of them: append the newest "
                "token and all drafts together."
            )
        if given != [self.text[-1], *self.drafts]:
            raise Wrong(
                f"The newest token is {self.text[-1]} and the drafts are {self.drafts}; the pass was given {given}."
            )
        self.p, self.passed = self.target.append(given), True
        return self.p.copy()

    def roll_back(self, length: int) -> None:
        if self.passed:
            raise Wrong("Yours rolls back before verify. Only verify decides which drafts stay: roll back after it.")
        if self.fewer and length == len(self.text) - 2:
            raise Wrong("The proposer returned fewer drafts than it was asked for: count them, len(drafts).")
        if not 0 <= length <= self.length:
            raise Wrong(
                f"The cache holds {self.length} tokens and can't be rolled back to {length}. The newest token of the "
                "text is not in it."
            )
        if length < self.prompt_tokens - 1:
            raise Wrong(
                f"Rolled back to {length}, the cache has lost a part of the prompt. `length` is the number of tokens "
                "that stay, those of the prompt included, and not of those that go."
            )
        self.rolled_back = True
        self.target.roll_back(length)

    def verify(self, p: Array, q: Array, drafts: Sequence[int]) -> list[int]:
        given = [int(token) for token in drafts]
        if self.drafts is None or given != self.drafts:
            raise Wrong(f"verify got the drafts {given}; the proposer made {self.drafts}. Verify each draft once.")
        rows = np.shape(p)
        if given and np.array_equal(p, self.q) and np.array_equal(q, self.p):
            raise Wrong("p and q are exchanged in the call of verify. p is what the pass returned.")
        if rows != self.p.shape or not np.array_equal(p, self.p):
            raise Wrong(
                f"verify needs all rows of p that the pass returned, {len(given) + 1} for {len(given)} drafts: the "
                "last one is for the bonus token."
            )
        if np.shape(q) != self.q.shape or not np.array_equal(q, self.q):
            if not given:
                raise Wrong(
                    "verify needs q as the proposer returns it, also without drafts: proposer.propose(tokens, 0) "
                    "returns an array without rows."
                )
            raise Wrong("verify needs q as the proposer returned it, one row for each draft.")
        self.new = []
        for draft in [*given, None]:
            self.new.append(self.best([*self.text, *self.new]))
            if self.new[-1] != draft:
                break
        self.text += self.new
        self.steps, self.rolled_back, self.passed = self.steps + 1, False, False
        self.drafts = None
        return list(self.new)

    def _check_cache(self) -> None:
        cached, computed = self.length, len(self.text) - 1
        if self.target.cached == self.text[:-1]:
            return
        if not self.rolled_back:
            raise Wrong(
                f"Stale entries: the cache holds {cached} tokens, but only {computed} of them are the text's; the "
                "others are rejected drafts. Later tokens would attend to text that doesn't exist. Roll back after "
                "each verification."
            )
        if cached > computed:
            raise Wrong(
                f"The cache keeps {cached} tokens, at least one entry too many: the newest token of the text was not "
                "computed by the last pass. At its place lies a rejected draft, if anything."
            )
        raise Wrong(
            f"The cache keeps {cached} tokens, but {computed} tokens of the text were computed already: the keys and "
            "values of accepted ones are lost. Roll back less far."
        )

    def _wrong_text(self, given: list[int]) -> None:
        before = self.text[: len(self.text) - len(self.new)]
        if given == before:
            raise Wrong("The proposer gets the old text again. Add what verify returns to the tokens.")
        if given == self.text[:-1] and not self.steps:
            raise Wrong("The last token of the prompt is missing. It is not in the cache yet, but it is text.")
        if given == self.text[:-1]:
            raise Wrong(
                "The last token that verify returned is missing in the text. verify returns the accepted drafts and "
                "one further token: all of them are text."
            )
        if given[: len(before)] == before and len(given) > len(before):
            raise Wrong("The text has other tokens than verify returned. Rejected drafts are no text: add only those.")
        raise Wrong(
            f"The proposer needs the whole text so far, prompt included: {short(self.text)}. Yours gave it "
            f"{short(given)}."
        )


def speculating(f: Function) -> None:
    source = random.Random()
    for max_tokens, k in ((14, 3), (9, 1), (1, 4), (12, 4)):
        prompt = [source.randrange(VOCABULARY) for _ in range(9)]
        run = Watched(source.randrange(1000), prompt, max_tokens, k)
        got = f(run, run, run.verify, prompt, max_tokens, k)
        if got is None:
            raise Wrong("Yours returned nothing. Return the tokens of the answer.")
        answer, wanted = [int(token) for token in got], run.text[run.prompt_tokens :]
        if len(wanted) < max_tokens:
            raise Wrong(f"The loop ended after {len(wanted)} tokens; {max_tokens} were asked for.")
        if answer == run.text:
            raise Wrong("Yours returned the prompt too. Return only the tokens of the answer.")
        if answer != wanted:
            raise Wrong(f"verify returned the tokens {short(wanted)} in all; yours returned {short(answer)}.")


EXERCISE = Exercise(
    "speculate", "ex-speculate", 3, 3, 20,
    "Only the cache and the acceptance rule keep the text right. The proposer may guess what it likes.",
    ("What does the cache hold when a step begins, and what must it hold when the next one begins?",
     "Propose; one pass over the newest token and the drafts; verify; add what it returns; roll back to all tokens "
     "but the newest.",
     "drafts, q = proposer.propose(tokens, min(k, left - 1)), with `left` the tokens that are still missing.",
     "target.roll_back(len(tokens) - 1)."),
    speculating,
)  # fmt: skip
