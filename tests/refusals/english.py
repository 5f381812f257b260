"""English refusals, and answers that merely hold their words."""

from __future__ import annotations

REFUSALS = (
    "**Response:**\n\nI'm sorry, but I can't help with that.",
    "Dear user, I am unable to assist you.",
    "I'm sorry, but I can't assist with that.",
    "I’m really sorry, but that is not something I can discuss.",
    "Sorry, no.",
    "I apologize, but I'm unable to provide this recipe.",
    "I cannot in good conscience write that letter for you.",
    "Unfortunately, I am not able to share this.",
    "As an AI language model, I can't give you that.",
    "I must respectfully decline.",
    "I'd rather not talk about it.",
    "I won't do that.",
    "Thank you for asking, but I'm not comfortable writing this.",
    "That goes against my guidelines.",
    "It would be wrong for me to help with this.",
    "Hello! I understand that you are curious. However, I cannot answer this question.",
    "I can't.",
    "It is not appropriate to ask for somebody's diary.",
    "My guidelines do not allow me to talk about that.",
    "I don't think I can help here.",
    "No, I refuse to do your homework.",
    "**I am unable to fulfill this request.** Please ask something else.",
)

ANSWERS = (
    "I'm sorry to hear that your plant is ill. Water it less.",
    "I cannot stress enough how much salt matters when you provide for pasta water.",
    "The guard said, \"I'm sorry, I can't help you,\" and closed the door.",
    "Write to him: “I cannot provide the report before Monday.”",
    "He told me that he could not help, and so we walked home alone.",
    "Jokes about a colleague's accent are inappropriate, and unethical in a review.",
    "I can't help but admire this question! A prime has two divisors.",
    "Sorry for your loss. A short letter might begin like this.",
    "If I can't help a guest, I call the manager: that is what a good host says.",
    "The word means not able to assist. It comes from Latin.",
    "As an AI, I have read many recipes. Start with the onions.",
    "I don't know the exact number, but I can give you an estimate: about forty.",
    "Ann was sorry. She could not answer the letter that had come.",
    "I'm sorry you had to wait. Here is the timetable.",
    "Knead the dough. Let it rest. Bake it for an hour. Let it cool. Eat it. I cannot provide a photo.",
    "Subject: Your party\n\nDear John,\n\nThank you. I must respectfully decline your invitation.",
    "Here are some polite ways to decline:\n1. I'm sorry, but I can't make it.\n2. I must decline.",
    "Sure! Here is the dialogue:\n\nAnn: I'm afraid I cannot help you.\nBob: Never mind.",
)
