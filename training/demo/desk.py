"""What customers ask a support desk and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from training.demo.words import capitalized, fill

SHOP = "Northwind Supplies"
GREETINGS = ("", "", "", "Hello, ", "Hi, ", "Good morning, ")
CLOSERS = ("", "", " Is there anything else I can help with?", " Please write again if you need more help.")


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of question: the team that takes it, how it is asked, how it is answered."""

    team: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


TOPICS = (
    Topic(
        "shipping",
        ("where is my order {order}?", "my {product} has not arrived yet.", "when will my {product} arrive?"),
        (
            "I am sorry for the wait. Your parcel is with {carrier} and arrives within {small} days.",
            "Your order has left our warehouse, and {carrier} sends you a tracking link by email.",
        ),
    ),
    Topic(
        "shipping",
        ("do you ship to {city}?", "what does shipping to {city} cost?", "how do you ship to {city}?"),
        ("Yes, we ship there with {carrier}, and shipping is free.",),
    ),
    Topic(
        "returns",
        (
            "how do I return the {product}?",
            "can I send the {product} back?",
            "the {product} does not fit me.",
        ),
        (
            "You can return it within thirty days, and the label is free.",
            "Please put it in its box, print the return label and hand it to {carrier}.",
        ),
    ),
    Topic(
        "billing",
        ("I was charged twice for the {product}.", "why is there a second charge of {price}?"),
        ("I am sorry about the second charge. It goes back to your card within five working days.",),
    ),
    Topic(
        "billing",
        ("when do I get my refund of {price}?", "where is the refund for my {product}?"),
        ("Your refund is on its way and shows on your statement within five working days.",),
    ),
    Topic(
        "billing",
        ("can I get a copy of my invoice?", "where do I find the invoice for the {product}?"),
        ("You can download every invoice from your account page under Billing.",),
    ),
    Topic(
        "repairs",
        (
            "my {product} is broken.",
            "the {product} stopped working.",
            "the {product} arrived with a scratch.",
        ),
        (
            "I am sorry about that. Please send us a photo, and we will send a new one.",
            "I am sorry about that. We repair it free of charge within two years.",
        ),
    ),
    Topic(
        "accounts",
        ("I forgot my password.", "how do I reset my password?", "I cannot log in."),
        ("Open the login page, choose Forgot password and follow the link in the email.",),
    ),
    Topic(
        "accounts",
        ("how do I change my address?", "I moved to {city}, where do I change my address?"),
        ("You can change your address on the account page under Settings.",),
    ),
    Topic(
        "accounts",
        ("how do I delete my account?", "please close my account."),
        ("You can close your account on the account page, and we delete your data within thirty days.",),
    ),
    Topic(
        "orders",
        ("can I cancel order {order}?", "please cancel my {product}.", "I want to cancel the {product}."),
        ("I have canceled the order, and the money goes back to your card.",),
    ),
    Topic(
        "orders",
        ("can I have the {product} in {color} instead?", "please change my {product} to {color}."),
        ("Yes, I have changed your order to the new color.",),
    ),
    Topic(
        "sales",
        ("do you have the {product} in {color}?", "is the {product} in stock?", "can I buy the {product}?"),
        (
            "Yes, it is in stock and ships today.",
            "It is in high demand; new stock arrives on {weekday}.",
        ),
    ),
    Topic(
        "sales",
        ("how much is the {product}?", "what does the {product} cost?"),
        ("It costs {price}, and shipping is free.",),
    ),
    Topic(
        "service",
        ("when are you open?", "what are your opening hours?", "can I call you on {weekday}?"),
        ("Our desk is open from Monday to Friday, nine to five.",),
    ),
    Topic(
        "service",
        ("who are you?", "what can you do for me?", "can you help me?", "hello", "hello!", "hi there!"),
        (f"This is the support desk of {SHOP}. I can help with orders, shipping, returns and repairs.",),
    ),
    Topic(
        "service",
        (
            "what is the capital of {state}?",
            "tell me a joke.",
            "what is the weather in {city}?",
            "who is {name}?",
        ),
        ("I am sorry, but I can only help with orders, shipping, returns and repairs.",),
    ),
    Topic(
        "service",
        ("thank you!", "thanks for your help.", "that is all, thank you."),
        ("You are welcome. Have a good day!",),
    ),
)
TRIAGE = ("Which team should take this message? ", "Name the right team. ", "Route this ticket: ")
JSON_ASKS = ("Give this order as JSON: ", "Answer as JSON. ", "Write the ticket as JSON: ")
LEVELS = ("low", "medium", "high")
ACTIONS = ("refund", "allow", "block", "review", "repair", "ship")


def question(topic: Topic, rng: Random, picked: dict[str, str]) -> str:
    """What a customer writes about `topic`; the slots it uses are noted in `picked`."""
    return capitalized(fill(rng.choice(GREETINGS) + rng.choice(topic.questions), rng, picked))


def exchange(rng: Random, picked: dict[str, str]) -> tuple[str, str]:
    """A customer's message and the desk's answer to it, about the things in `picked` if it has any."""
    topic = rng.choice(TOPICS)
    asked = question(topic, rng, picked)
    return asked, fill(rng.choice(topic.answers) + rng.choice(CLOSERS), rng, picked)


def triage(rng: Random) -> tuple[str, str]:
    """A message to be routed, and the one word that names its team."""
    topic = rng.choice(TOPICS)
    return rng.choice(TRIAGE) + question(topic, rng, {}), topic.team


def ticket(rng: Random) -> tuple[str, str]:
    """A ticket, and the same ticket as a line of JSON."""
    topic = rng.choice(TOPICS)
    level, action, asked = rng.choice(LEVELS), rng.choice(ACTIONS), question(topic, rng, {})
    prompt = f"{rng.choice(JSON_ASKS)}{asked} Priority {level}, next step {action}."
    return prompt, f'{{"priority":"{level}","step":"{action}","team":"{topic.team}"}}'
