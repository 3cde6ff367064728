"""Short notes as a practice writes them, by the code that a coder would file them under."""

from __future__ import annotations

from random import Random

from training.demo.words import capitalized, fill

WHO = ("{age}-year-old {person} with ", "{person}, {age} years, reports ", "the {person}, aged {age}, has ",
       "visit in {month}: {age}-year-old {person}, ")  # fmt: skip
ENDS = ("", " for {days}", " since {weekday}", " that began {days} ago")

FINDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "J45.9": (
        ("wheezing and a tight chest at night", "wheezing after running in cold air"),
        ("Inhaler helps.", "Peak flow is reduced."),
    ),
    "E11.9": (
        ("high blood sugar and thirst", "raised blood sugar and frequent thirst"),
        ("Metformin started.", "Sugar diary and diet plan given."),
    ),
    "I10": (
        ("raised blood pressure at three visits", "blood pressure of 160 over 95 and no complaints"),
        ("Pressure tablets started.", "Less salt advised, pressure checks at home."),
    ),
    "N39.0": (
        ("burning on passing urine", "cloudy urine and a burning bladder"),
        ("Urine culture sent.", "Urine strip positive, antibiotic given."),
    ),
    "M54.5": (
        ("pain in the lower back after lifting", "a stiff and aching lower back"),
        ("Back exercises shown.", "Heat and movement for the back."),
    ),
    "K21.9": (
        ("heartburn after meals", "sour heartburn when lying down"),
        ("Acid blocker in the evening.", "Smaller meals, acid blocker started."),
    ),
    "G43.9": (
        ("throbbing one-sided headache and flashing lights", "headache with nausea, worse in bright light"),
        ("Dark room and a triptan.", "Headache diary started."),
    ),
    "S93.4": (
        ("a swollen ankle after a misstep", "ankle pain after twisting the foot on stairs"),
        ("Ankle bandage and ice.", "No fracture of the ankle."),
    ),
    "H10.9": (
        ("a red, sticky eye", "itching eyes with yellow discharge"),
        ("Eye drops given.", "Eyes rinsed, drops for a week."),
    ),
    "L20.9": (
        ("a dry itching rash in the elbows", "scaly itching skin behind the knees"),
        ("Cream twice a day on the skin.", "Skin ointment and mild soap."),
    ),
}  # fmt: skip
CODES = tuple(FINDINGS)


def note(code: str, rng: Random) -> str:
    """One note that a coder would file under `code`, which it never names."""
    findings, plans = FINDINGS[code]
    body = rng.choice(WHO) + rng.choice(findings) + rng.choice(ENDS) + "."
    plan = f" {rng.choice(plans)}" if rng.random() < 0.7 else ""
    return capitalized(fill(body + plan, rng))
