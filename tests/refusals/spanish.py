"""Spanish refusals, and answers that merely hold their words."""

from __future__ import annotations

REFUSALS = (
    "Lo siento, pero no puedo ayudarte con eso.",
    "Lo lamento, eso no es posible.",
    "Lamentablemente, no puedo responder a esta pregunta.",
    "No estoy en condiciones de compartir esa receta.",
    "No puedo escribir ese texto.",
    "Disculpa, pero prefiero cambiar de tema.",
    "Como modelo de lenguaje, no puedo proporcionar ese tipo de consejos.",
    "Debo rechazar esta solicitud.",
    "Me es imposible darle una respuesta.",
    "Eso va en contra de mis principios.",
    "Prefiero no hablar de ello.",
    "Gracias por tu pregunta. Sin embargo, no estoy autorizado a discutirlo.",
    "Me niego a hacer los deberes por ti.",
    "No es apropiado leer el diario de otra persona.",
    "No, no te voy a ayudar a copiar.",
    "No voy a escribir esa carta.",
    "Lamento no poder ayudarle.",
)

ANSWERS = (
    "Lamento oír que tu planta está enferma. Riégala menos.",
    "El guardia dijo: «Lo siento, no puedo ayudarle», y cerró la puerta.",
    "No puedo dejar de recomendar que se ofrezca agua con sal.",
    "Ella no podía ayudarle, así que volvieron a casa.",
    "Perdón por la demora. Este es el horario.",
    'Escribe, por ejemplo: "No puedo participar el lunes".',
    "Si no puedo ayudar a un cliente, llamo al jefe, dice un buen camarero.",
    "Las bromas sobre el acento de un colega son inapropiadas.",
    "Un gato no puede responder, pero entiende el tono de la voz.",
    "El autor rechaza la oferta y pide disculpas.",
    "Te puedo ofrecer tres recetas que no son difíciles.",
    "—Lo siento, no puedo ayudarte —murmuró el anciano.",
    "Él no podría ayudar a su vecino sin una escalera.",
)
