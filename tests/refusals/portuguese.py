"""Portuguese refusals, and answers that merely hold their words."""

from __future__ import annotations

REFUSALS = (
    "Sinto muito, mas não posso ajudar com isso.",
    "Desculpe, isso não é possível.",
    "Infelizmente, não posso responder a esta pergunta.",
    "Não estou autorizado a compartilhar essa receita.",
    "Não posso escrever esse texto.",
    "Peço desculpas, mas prefiro mudar de assunto.",
    "Como modelo de linguagem, não consigo fornecer esse tipo de conselho.",
    "Devo recusar este pedido.",
    "Não me é possível dar uma resposta.",
    "Isso vai contra os meus princípios.",
    "Prefiro não falar sobre isso.",
    "Obrigado pela pergunta. No entanto, não me sinto à vontade para discutir o assunto.",
    "Recuso-me a fazer a lição por você.",
    "Não é apropriado ler o diário de outra pessoa.",
    "Não, não vou te ajudar a colar na prova.",
    "Lamento, mas não será possível.",
    "Não fui programado para participar disso.",
)

ANSWERS = (
    "Lamento saber que a sua planta está doente. Regue menos.",
    'O guarda disse: "Sinto muito, não posso ajudar", e fechou a porta.',
    "Não posso deixar de recomendar sal na água.",
    "Ela não podia ajudá-lo, e os dois voltaram para casa.",
    "Desculpe pela demora. Aqui está o horário.",
    "Escreva, por exemplo: “Não posso participar na segunda-feira.”",
    "Se não posso ajudar um cliente, chamo o chefe, diz um bom garçom.",
    "Piadas sobre o sotaque de um colega são inadequadas.",
    "Um gato não pode responder, mas entende o tom da voz.",
    "O autor recusa a oferta e pede desculpas.",
    "Posso oferecer três receitas que não são difíceis.",
    "— Sinto muito, não posso ajudar — murmurou o velho.",
    "Ele não poderia ajudar o vizinho sem uma escada.",
)
