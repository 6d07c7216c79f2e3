# ruff: noqa: RUF001 - answers in Chinese have fullwidth punctuation
"""Scores of hand-made answers, by the benchmarks' rules."""

from __future__ import annotations

import pytest

from fusegpt.evaluation.answers import (
    chinese_blank,
    chinese_choice,
    chinese_judgement,
    choice,
    open_answer,
    vqa_accuracy,
    vqa_normal,
)

OPTIONS = ["a ruptured esophagus", "a stroke", "a severe allergy", "food poisoning"]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("The answer is (B), not (A) as one may think", "A"),  # the last one named
        ("The answer is D.", "D"),
        ("I think that this patient has a severe allergy indeed", "C"),
        ("A because B is wrong", "B"),
    ],
)
def test_a_choice_is_the_letter_or_the_option_that_an_answer_names(response, letter):
    assert choice(response, OPTIONS, "q1") == letter


def test_an_answer_that_names_nothing_picks_by_the_question_not_by_chance():
    picks = [choice("no idea", OPTIONS, f"q{number}") for number in range(400)]
    assert picks == [choice("no idea", OPTIONS, f"q{number}") for number in range(400)]
    assert all(70 < picks.count(letter) < 130 for letter in "ABCD")
    assert choice("Answer", OPTIONS, "q1") == choice("", OPTIONS, "q1")  # no letter stands alone


@pytest.mark.parametrize(
    ("response", "answers", "right"),
    [
        ("24", ["24"], True),
        ("The total is 1,024.5 units", ["1024.5"], True),
        ("24.001", ["24"], True),  # two decimals count
        ("25", ["24"], False),
        ("it is a Transformer", ["transformer"], True),
        ("x", ["y"], False),
        ("ax", ["x"], False),  # a single letter must stand alone
        ("it is x", ["x"], True),
        ("-3e2", ["-300"], True),
        ("blue", ["red", "blue"], True),
    ],
)
def test_an_open_answer_matches_numbers_and_contains_text(response, answers, right):
    assert open_answer(response, answers) is right


CHINESE_OPTIONS = ["苹果", "香蕉", "樱桃", "椰子"]


@pytest.mark.parametrize(
    ("response", "letters"),
    [
        ("B", "B"),
        ("正确答案是(C)", "C"),
        ("选A和C", "AC"),
        ("ACD", "ACD"),
        ("(A) 不对, (B)(B) 对", "B"),  # named most often
        ("应该是香蕉", "B"),
    ],
)
def test_a_chinese_choice_collects_all_letters_named_most_often(response, letters):
    assert chinese_choice(response, CHINESE_OPTIONS, "q1") == letters


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("对", "对"),
        ("错", "错"),
        ("正确。", "对"),
        ("不对", "错"),
        ("不正确", "错"),
        ("这个说法是错误的", "错"),
        ("根据图片,这个陈述是正确的", "对"),
        ("答案:对", "对"),
    ],
)
def test_a_judgement_is_right_or_wrong(response, verdict):
    assert chinese_judgement(response, "q1") == verdict


def test_an_undecided_judgement_picks_by_the_question():
    said = {chinese_judgement("是否正确", f"q{number}") for number in range(20)}
    assert said == {"对", "错"}
    assert chinese_judgement("是否正确", "q1") == chinese_judgement("", "q1")


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("12", "12", True),
        ("答案是12.00", "12", True),
        ("结果等于1，200", "1200", True),
        ("13", "12", False),
        ("答案是长江", "长江", True),
        ("长江", "黄河", False),
        ("长江" + "很长" * 20, "长江", False),
    ],
)
def test_a_blank_is_filled_by_an_equal_number_or_little_but_the_text(response, answer, right):
    assert chinese_blank(response, answer) is right


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_leaves_each_answer_out_once(agreeing, accuracy):
    answers = ["surfing"] * agreeing + ["swimming"] * (10 - agreeing)
    assert vqa_accuracy("Surfing.", answers) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The dog's bowl", "dogs bowl"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("Yes.", "yes"),
        ("red/white", "red white"),
        ("don't", "dont"),
    ],
)
def test_vqa_answers_are_compared_in_one_form(text, normal):
    assert vqa_normal(text) == normal
