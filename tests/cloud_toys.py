"""`gcloud` and `sky` that are not there: executables that write down how they were called, and
answer from a script.
"""

import json
import sys

PROGRAM = """#!{python} -SE
import json, sys, time
words = [{name!r}, *sys.argv[1:]]
with open({calls!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
with open({script!r}) as file:
    rules = json.load(file)
line = " ".join(words)
for rule in rules:
    if rule["of"] in line:
        answer = rule["answers"].pop(0) if len(rule["answers"]) > 1 else rule["answers"][0]
        with open({script!r}, "w") as file:
            json.dump(rules, file)
        time.sleep(answer.get("sleep", 0))
        sys.stdout.write(answer.get("out", ""))
        sys.stderr.write(answer.get("err", ""))
        sys.exit(answer.get("code", 0))
sys.exit("unexpected: " + line)
"""


class FakeTool:
    """An executable `name` in a folder that is all of PATH; `script` says what it answers.

    A script maps a part of the command line to answers, the last of which repeats. An answer is the
    text of standard output, or a dict of `out`, `err`, `code` and `sleep`. The first part that
    matches counts; the part "" comes last.
    """

    def __init__(self, name, folder, script):
        self._calls = folder / f"{name}.calls"
        self._script = folder / f"{name}.json"
        self.answer(script)
        path = folder / name
        facts = {"calls": str(self._calls), "script": str(self._script)}
        path.write_text(PROGRAM.format(python=sys.executable, name=name, **facts))
        path.chmod(0o755)

    def answer(self, script):
        rules = []
        for part, answers in sorted(script.items(), key=lambda item: item[0] == ""):
            listed = answers if isinstance(answers, list) else [answers]
            texts = [{"out": each} if isinstance(each, str) else each for each in listed]
            rules.append({"of": part, "answers": texts})
        self._script.write_text(json.dumps(rules))

    @property
    def calls(self):
        """Return the words of every call so far."""
        if not self._calls.exists():
            return []
        return [tuple(json.loads(line)) for line in self._calls.read_text().splitlines()]

    def verbs(self):
        """Return what every call did, in a word or two."""
        return [_verb(words) for words in self.calls]


def _verb(words):
    line = " ".join(words)
    scripts = ("install.sh", "run.sh", "look.sh", "tail")
    for part in ("create", "describe", "delete", "scp", "accelerator-types", "config", *scripts):
        if part in line.split("--command=")[-1].replace("/", " ").split():
            return part.removesuffix(".sh")
    return line
