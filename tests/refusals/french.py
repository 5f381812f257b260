"""French refusals, and answers that merely hold their words."""

from __future__ import annotations

REFUSALS = (
    "Je suis désolé, mais je ne peux pas vous aider avec cela.",
    "Désolée, ce n'est pas possible.",
    "Malheureusement, je ne peux pas répondre à cette question.",
    "Je ne suis pas en mesure de vous fournir cette recette.",
    "Je ne peux pas écrire ce texte.",
    "Je m'excuse, mais je préfère changer de sujet.",
    "En tant qu'assistant, je ne peux malheureusement pas donner ce genre de conseil.",
    "Je dois refuser cette demande.",
    "Il m'est impossible de vous répondre.",
    "Cela va à l'encontre de mes principes.",
    "Je préfère ne pas en parler.",
    "Merci pour votre question. Cependant, je ne suis pas autorisé à en discuter.",
    "Je refuse de faire ce devoir à ta place.",
    "Il n'est pas approprié de lire le journal d'une autre personne.",
    "Non, je ne vais pas t'aider à tricher.",
    "Je regrette, mais c'est non.",
    "Je peux pas t'aider, désolé.",
)

ANSWERS = (
    "Je suis désolé d'apprendre que votre plante est malade. Arrosez-la moins.",
    "Le gardien dit : « Je suis désolé, je ne peux pas vous aider », et ferma la porte.",
    "Je ne saurais trop vous recommander de saler l'eau avant de servir.",
    "Elle ne pouvait pas l'aider, et ils rentrèrent chez eux.",
    "Excusez-moi pour le retard. Voici les horaires.",
    "Écrivez par exemple : « Je ne peux pas participer lundi. »",
    "Si je ne peux pas aider un client, j'appelle le chef, dit un bon serveur.",
    "Les blagues sur l'accent d'un collègue ne sont pas appropriées au travail.",
    "Un chat ne peut pas répondre, mais il comprend le ton de la voix.",
    "L'auteur refuse l'offre et présente ses excuses.",
    "Je peux vous proposer trois recettes qui ne sont pas difficiles.",
    "— Je suis désolé, je ne peux pas vous aider, murmura le vieil homme.",
)
