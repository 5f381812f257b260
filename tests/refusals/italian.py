"""Italian refusals, and answers that merely hold their words."""

from __future__ import annotations

REFUSALS = (
    "Mi dispiace, ma non posso aiutarti con questo.",
    "Spiacente, non è possibile.",
    "Purtroppo non posso rispondere a questa domanda.",
    "Non sono in grado di fornire questa ricetta.",
    "Non posso scrivere questo testo.",
    "Mi scuso, ma preferisco cambiare argomento.",
    "Come modello linguistico, non posso dare questo tipo di consigli.",
    "Devo rifiutare questa richiesta.",
    "Mi è impossibile darle una risposta.",
    "Questo va contro i miei principi.",
    "Preferisco non parlarne.",
    "Grazie per la domanda. Tuttavia non sono autorizzato a discuterne.",
    "Mi rifiuto di fare i compiti al posto tuo.",
    "Non è appropriato leggere il diario di un'altra persona.",
    "No, non ti voglio aiutare a copiare.",
    "Non intendo collaborare a questo scherzo.",
    "Non mi sento a mio agio a parlarne.",
)

ANSWERS = (
    "Mi dispiace sentire che la tua pianta è malata. Annaffiala meno.",
    "La guardia disse: «Mi dispiace, non posso aiutarla», e chiuse la porta.",
    "Non posso fare a meno di consigliare il sale nell'acqua.",
    "Lei non poteva aiutarlo, così tornarono a casa.",
    "Mi scuso per il ritardo. Ecco l'orario.",
    'Scrivi per esempio: "Non posso partecipare lunedì".',
    "Se non posso aiutare un cliente, chiamo il capo, dice un bravo cameriere.",
    "Le battute sull'accento di un collega sono inappropriate.",
    "Un gatto non può rispondere, ma capisce il tono della voce.",
    "L'autore rifiuta l'offerta e chiede scusa.",
    "Posso offrirti tre ricette che non sono difficili.",
    "— Mi dispiace, non posso aiutarti, mormorò il vecchio.",
    "Ieri ho giocato contro i miei amici e ho vinto.",
)
