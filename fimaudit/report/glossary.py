"""The page's words, explained where it uses them."""

from __future__ import annotations

__all__ = ["GLOSSARY", "term_id"]

GLOSSARY = {
    "margin radius": "The estimated distance from an input to the nearest place where the model answers something else. "
    "Small is fragile. It extends the slope at the input in a straight line (to first order), or from labels alone the "
    "decision boundary at one of its points, so it is no guaranteed bound.",
    "worst direction": "Of all the ways in which an input can be changed a little, the one that changes the answer "
    "most. Changes in other directions, such as most noise, change it less.",
    "to first order": "As if the model went on in a straight line from the input. Good for small changes; over large "
    "ones the model may bend, towards another answer or away from it.",
    "unit": "What a length of 1 means here. A change of several features at once has the length of the square root of "
    "the sum of their squared changes, each divided by its scale.",
    "interval": "The range in which the number lies with the stated confidence. Its source is the measurement itself, "
    "which looks at a sample of directions; it says nothing of other inputs.",
    "population": "All the inputs of which the measured ones are a random sample. If they are no random sample, the "
    "numbers for the population mean nothing.",
    "yardstick": "Something known, beside which a number can be read: another model, noise, the distance to an input of "
    "another class, a linear model of the same data.",
    "spectral norm": "How violently the probabilities can change when the input changes a little: the largest "
    "eigenvalue of the Fisher information of the answer with respect to the input. It shrinks when a model answers with "
    "sharper probabilities, although no decision has moved.",
    "peak norm": "The spectral norm freed from confidence: its largest value over all softmax temperatures. Two models "
    "with the same decisions and sharper or softer probabilities have the same peak norm.",
    "trades": "Two classes trade probability where a change in the worst direction takes it from one and gives it to "
    "the other.",
    "carried by": "The features by which the shortest way to another answer goes, and the share of each in it.",
    "held": "Features that were not changed, because they are categories, ids, missing, or named so by whoever ran the "
    "audit. No number here says what would happen if they changed.",
    "displacement": "The small change that was made to an input in order to see how the answer follows, and its length.",
    "counterexample": "A changed input that was really sent to the model and really got another answer. It proves that "
    "the other answer is at most this far away.",
    "below detection": "The answers gave no value: they did not change measurably, say, or were too random. Limits are "
    "known at most; the reason of each input says which.",
    "integrity": "Whether the answers behave like those of one function whose slopes lead to its decisions. A model can "
    "be made to look robust without one decision moving; these checks look for that.",
    "undecided": "The interval reaches over the limit, so the rule is neither shown to be kept nor shown to be broken.",
}


def term_id(term: str) -> str:
    """The anchor of a word."""
    return "term-" + term.replace(" ", "-")
