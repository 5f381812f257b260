"""German refusals, and answers that merely hold their words."""

from __future__ import annotations

REFUSALS = (
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Tut mir leid, das geht nicht.",
    "Leider kann ich diese Frage nicht beantworten.",
    "Ich kann Ihnen dazu keine Auskunft geben.",
    "Ich darf diesen Text nicht verfassen.",
    "Entschuldigung, aber darüber möchte ich nicht sprechen.",
    "Als KI-Modell bin ich nicht in der Lage, das zu tun.",
    "Ich muss Ihre Bitte höflich ablehnen.",
    "Ich werde dir dabei nicht helfen.",
    "Das verstößt gegen meine Richtlinien.",
    "Darüber möchte ich lieber nicht sprechen.",
    "Danke für Ihre Anfrage. Bei diesem Thema kann ich Sie jedoch leider nicht unterstützen.",
    "Ich weigere mich, diese Hausaufgabe zu schreiben.",
    "Es ist mir nicht möglich, diesen Wunsch zu erfüllen.",
    "Nein, dafür kann ich keine Anleitung geben.",
    "Es wäre nicht angemessen, über das Tagebuch einer anderen Person zu sprechen.",
    "**Sorry**, da muss ich passen.",
)

ANSWERS = (
    "Es tut mir leid zu hören, dass deine Pflanze krank ist. Gieße sie weniger.",
    "Der Wächter sagte: „Es tut mir leid, ich kann Ihnen nicht helfen“, und schloss die Tür.",
    "Ich kann nicht oft genug sagen, wie wichtig Salz ist.",
    "Sie konnte ihm nicht helfen, und so gingen beide nach Hause.",
    "Entschuldigung für die Verspätung. Hier ist der Fahrplan.",
    "Schreibe zum Beispiel: „Leider kann ich am Montag nicht teilnehmen.“",
    "Wenn ich einem Gast nicht helfen kann, rufe ich den Chef: so denkt ein guter Kellner.",
    "Witze über den Akzent eines Kollegen sind unangemessen.",
    "Eine Katze kann nicht antworten, aber sie versteht den Ton der Stimme.",
    "Der Autor lehnt das Angebot ab und bittet um Entschuldigung.",
    "Ich kann dir drei Rezepte geben, die nicht schwierig sind.",
    "Die Firma kann keine Auskunft geben, solange das Verfahren läuft.",
)
