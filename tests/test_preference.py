"""What is asked of a language model, and what its chat template puts around it."""

from __future__ import annotations

import numpy as np
import pytest

from llmfeat.errors import TemplateError
from llmfeat.text import ChatFrame, PreferencePrompt
from tests.llm_fixtures import CHAT

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Gemma's: no message of a system, and what is said is stripped.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


class TestChatFrame:
    def test_of_a_template_with_a_system(self):
        frame = ChatFrame.of(SMOLLM, SPECIAL, system="Answer Yes or No.", opening="Answer: ")
        assert frame.render("Heat?") == (
            "<|im_start|>system\nAnswer Yes or No.<|im_end|>\n<|im_start|>user\nHeat?<|im_end|>\n"
            "<|im_start|>assistant\nAnswer: "
        )

    def test_of_a_template_with_a_system_of_its_own(self):
        frame = ChatFrame.of(SMOLLM, SPECIAL)
        assert frame.before.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>")
        assert frame.after == "<|im_end|>\n<|im_start|>assistant\n"

    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_is_what_transformers_renders(self, llm_source, system):
        from transformers import AutoTokenizer

        said = [{"role": "user", "content": "Heat?"}]
        said = [*([{"role": "system", "content": system}] if system else []), *said]
        tokenizer = AutoTokenizer.from_pretrained(llm_source)
        for template in (CHAT, SMOLLM):
            expected = tokenizer.apply_chat_template(
                said, chat_template=template, tokenize=False, add_generation_prompt=True
            )
            assert ChatFrame.of(template, SPECIAL, system=system).render("Heat?") == expected

    def test_a_system_that_is_refused_stands_before_the_message(self):
        frame = ChatFrame.of(GEMMA, SPECIAL, system="Be brief.")
        assert frame.render("Heat?") == (
            "<s><start_of_turn>user\nBe brief.\n\nHeat?<end_of_turn>\n<start_of_turn>model\n"
        )

    def test_a_system_that_is_left_out_stands_before_the_message(self):
        silent = "{% for m in messages %}{% if m['role'] == 'user' %}U {{ m['content'] }} A{% endif %}{% endfor %}"
        assert ChatFrame.of(silent, SPECIAL, system="Be brief.").render("Heat?") == "U Be brief.\n\nHeat? A"

    @pytest.mark.parametrize(
        ("template", "said"),
        [
            ("{{ messages[-1]['content'] | upper }}", "it changes what the user says"),
            ("{{ messages[-1]['content'][:5] }}", "it changes what the user says"),
            ("{{ messages[-1]['content'] }} {{ messages[-1]['content'] }}", "it changes what the user says"),
            ("{{ messages[-1]['content'] | length }}: {{ messages[-1]['content'] }}", "depends on it"),
            ("{{ raise_exception('Not today') }}", "Not today"),
            ("{% for %}", "Expected an expression"),
            ("{{ messages + 1 }}", "can only concatenate"),
            ("{{ ''.__class__.__mro__ }}{{ messages[-1]['content'] }}", "unsafe"),
            ("{{ messages.append(1) }}{{ messages[-1]['content'] }}", "unsafe"),
            ("{{ raise_exception.__globals__['x'] }}{{ messages[-1]['content'] }}", "unsafe"),
        ],
    )
    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_what_cannot_be_rendered(self, template, said, system):
        with pytest.raises(TemplateError, match=f"cannot be rendered .*{said}.*pass chat=False"):
            ChatFrame.of(template, SPECIAL, system=system)

    def test_today_is_not_written(self):
        dated = "{{ strftime_now('%d %b %Y') }}|{{ messages[-1]['content'] }}"
        assert ChatFrame.of(dated, SPECIAL).render("Heat?") == "|Heat?"

    def test_what_the_user_says_is_not_rendered(self):
        assert "{{ 7 * 7 }}" in ChatFrame.of(CHAT, SPECIAL).render("{{ 7 * 7 }}")


HISTORY = [("Heat", True), ("Alien", False), ("Casino", None), ("Speed", True)]


class TestPrompt:
    def test_by_hand(self):
        assert PreferencePrompt().render(HISTORY, "Drama") == (
            "Liked 2 of 4: Heat; Speed\nDisliked 1 of 4: Alien\nSeen: Casino\nNext: Drama\n"
            "Would the user like it? Answer Yes or No."
        )

    @pytest.mark.parametrize(
        ("history", "text"),
        [
            ([], "{candidate}"),
            ([("Heat", True)], "Liked 1 of 1: Heat\n{candidate}"),
            ([("Heat", False)], "Disliked 1 of 1: Heat\n{candidate}"),
            ([("Heat", None)], "Seen: Heat\n{candidate}"),
        ],
    )
    def test_a_section_without_items_vanishes(self, history, text):
        rest = "Next: Drama\nWould the user like it? Answer Yes or No."
        assert PreferencePrompt().render(history, "Drama") == text.format(candidate=rest)

    def test_what_stands_outside_of_brackets_stays(self):
        prompt = PreferencePrompt("({liked}) {n_liked}/{n_disliked}/{n_seen}/{n_history} {candidate}")
        assert prompt.render([], "Drama") == "() 0/0/0/0 Drama"
        assert prompt.render(HISTORY, "Drama") == "(Heat; Speed) 2/1/1/4 Drama"

    @pytest.mark.parametrize(
        ("newest_first", "text"), [(False, "Alien, Casino, Speed"), (True, "Speed, Casino, Alien")]
    )
    def test_the_newest_items_in_either_order(self, newest_first, text):
        prompt = PreferencePrompt("{history}: {candidate}", separator=", ", max_items=3, newest_first=newest_first)
        assert prompt.render(HISTORY, "Drama") == f"{text}: Drama"

    def test_no_items_at_all(self):
        assert PreferencePrompt("[{history}: ]{candidate}", max_items=0).render(HISTORY, "Drama") == "Drama"

    def test_marks_stand_behind_items_whose_label_is_known(self):
        prompt = PreferencePrompt(
            "[{history}\n]{n_liked} {liked} | {disliked} | {seen} | {candidate}:", separator="\n", marks=("-", "+")
        )
        assert prompt.render(HISTORY, "Drama") == (
            "Heat+\nAlien-\nCasino\nSpeed+\n2 Heat+\nSpeed+ | Alien- | Casino | Drama:"
        )
        assert prompt.render([], "Drama") == "0  |  |  | Drama:"

    @pytest.mark.parametrize(("liked", "mark"), [(np.True_, "+"), (np.False_, "-"), (1.0, "+"), (0, "-")])
    def test_labels_of_arrays(self, liked, mark):
        assert PreferencePrompt("{history}{candidate}", marks=("-", "+")).render([("Heat", liked)], "") == f"Heat{mark}"

    def test_a_history_that_is_its_own_example(self):
        prompt = PreferencePrompt.by_example("Bad", "Good", max_items=3)
        assert prompt.render(HISTORY, "Drama") == "Alien: Bad\nCasino\nSpeed: Good\nDrama:"
        assert prompt.render([], "Drama") == "Drama:"
        assert not prompt.chat

    def test_titles_are_no_templates(self):
        prompt = PreferencePrompt("{history}: {candidate}")
        assert prompt.render([("{candidate} [x]", True)], "{liked}") == "{candidate} [x]: {liked}"

    def test_shareable_is_what_ends_with_the_candidate(self):
        assert PreferencePrompt().is_shareable
        assert PreferencePrompt("{history} {candidate}?").is_shareable
        assert not PreferencePrompt("{candidate}, after {history}?").is_shareable

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"template": "Next?"}, r"has \{candidate\} 0 times"),
            ({"template": "{candidate} {candidate}"}, r"has \{candidate\} 2 times"),
            ({"template": "[{candidate}]"}, "outside of brackets"),
            ({"template": "{title} {candidate}"}, r"names \['title'\]"),
            ({"template": "{liked:5} {candidate}"}, r"names \['liked'\].*without limits"),
            ({"template": None}, "template=None, but a str"),
            ({"system": 5}, "system=5, but a str or None"),
            ({"opening": None}, "opening=None, but a str"),
            ({"separator": 5}, "separator=5, but a str"),
            ({"marks": "NY"}, "marks='NY', but two str"),
            ({"marks": ("No",)}, r"marks=\('No',\), but two str"),
            ({"marks": (": No", True)}, r"marks=\(': No', True\), but two str"),
            ({"chat": 1}, "chat=1, but a bool"),
            ({"newest_first": None}, "newest_first=None, but a bool"),
            ({"max_items": -1}, "max_items=-1, but a whole number from 0"),
            ({"max_items": True}, "max_items=True, but a whole number"),
            ({"max_items": None}, "max_items=None, but a whole number"),
            ({"item_tokens": 0}, "item_tokens=0, but a whole number from 1"),
            ({"item_tokens": 2.0}, r"item_tokens=2\.0, but a whole number"),
        ],
    )
    def test_what_cannot_be_asked(self, parameters, said):
        with pytest.raises(TemplateError, match=said):
            PreferencePrompt(**parameters)

    def test_every_parameter_changes_the_fingerprint(self):
        prompts = [
            PreferencePrompt(),
            PreferencePrompt("{candidate}"),
            PreferencePrompt(system=None),
            PreferencePrompt(system=""),
            PreferencePrompt(chat=False),
            PreferencePrompt(opening="Answer:"),
            PreferencePrompt(separator=", "),
            PreferencePrompt(marks=("", "")),
            PreferencePrompt(marks=(": No", ": Yes")),
            PreferencePrompt(max_items=21),
            PreferencePrompt(item_tokens=None),
            PreferencePrompt(newest_first=True),
        ]
        assert len({prompt.fingerprint for prompt in prompts}) == len(prompts)
        assert PreferencePrompt().fingerprint == PreferencePrompt().fingerprint


class TestFile:
    def test_reads_its_table(self, tmp_path):
        path = tmp_path / "prompt.toml"
        path.write_text(
            "[prompt]\ntemplate = '{history}: {candidate}'\nmax_items = 5\nchat = false\nmarks = ['-', '+']\n"
        )
        expected = PreferencePrompt("{history}: {candidate}", max_items=5, chat=False, marks=("-", "+"))
        assert PreferencePrompt.from_file(path) == expected

    def test_stands_beside_other_templates(self, tmp_path):
        path = tmp_path / "all.toml"
        path.write_text("[item]\ntemplate = '{title}'\n[history]\nmax_items = 3\n[prompt]\nmax_items = 5\n")
        assert PreferencePrompt.from_file(path) == PreferencePrompt(max_items=5)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[history]\nmax_items = 5", r"no table \[prompt\]"),
            ("[prompt]\nmax = 5", r"the keys \['max'\], but only \['template', 'system'"),
            ("[prompt]\nmax_items = '5'", "max_items='5', but a whole number"),
            ("[prompt]\ntemplate = 'Next?'", r"has \{candidate\} 0 times"),
        ],
    )
    def test_a_bad_file_is_named_with_what_is_wrong(self, tmp_path, content, said):
        (tmp_path / "t.toml").write_text(content)
        with pytest.raises(TemplateError, match=f"t.toml.*{said}"):
            PreferencePrompt.from_file(tmp_path / "t.toml")
