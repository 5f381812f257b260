"""The description of an experiment in a run directory."""

from __future__ import annotations

from excise.devices.environment import devices_digest, hardware
from excise.devices.memory import devices_of, input_device
from excise.devices.prepacked import is_prepacked
from excise.engine.generation import settings_not_followed
from excise.experiment.measurements import Measurements
from excise.store.description import Execution, Origin, RunDescription
from excise.store.identity import Identity


def description_of(experiment: Measurements, identity: Identity, origin: Origin) -> RunDescription:
    """The present description of the run; batches may have become smaller since its start."""
    runner, part = experiment.runner, experiment.search_part
    return RunDescription(
        identity=identity,
        origin=origin,
        execution=_execution(experiment, origin),
        response_prefix=runner.chat.response_prefix,
        asked_with=_asked_with(experiment),
        coverage=experiment.coverage.per_layer,
        uncovered=dict(experiment.coverage.suspects),
        prompts=experiment.prompts,
        refusals=part.refusals,
        objectives=experiment.proposals.objectives,
        seconds={"load": origin.load_seconds, **experiment.seconds},
    )


def _execution(experiment: Measurements, origin: Origin) -> Execution:
    model, runner = experiment.model, experiment.runner
    return Execution(
        dtype=str(model.dtype).removeprefix("torch."),
        batch_size=runner.slots,
        rows=runner.rows,
        candidates=experiment.candidates,
        device=devices_digest(devices_of(model)),
        in_blocks=any(map(is_prepacked, model.parameters())),
        hardware=hardware(input_device(model)) if origin.hardware else None,
    )


def _asked_with(experiment: Measurements) -> dict[str, object]:
    """Prompt rendering and decoding, without empty values.

    response_prefix: common beginning of all answers. template_arguments: of the user, and found arguments.
    generation_config: settings of the model that scores did not follow.
    """
    chat = experiment.runner.chat
    known: dict[str, object] = {}
    if chat.response_prefix:
        known["response_prefix"] = chat.response_prefix
    if chat.call.arguments:
        known["template_arguments"] = dict(chat.call.arguments)
    if unfollowed := settings_not_followed(experiment.model.generation_config):
        known["generation_config"] = unfollowed
    return known
