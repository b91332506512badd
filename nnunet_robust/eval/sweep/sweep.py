"""Models x cases x perturbations x levels -> results, in memory.

`parameters` is what the user asked for, `plan` all that is checked before anything is computed, `run` the order of the
work, `engine` computes, `units` shares the work among processes. A finished prediction is on disk at once; a run that
was killed goes on where it stood; another model or perturbation computes only what is new.
"""

from __future__ import annotations

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.parts import is_disk_full
from nnunet_robust.eval.sweep.engine import Progress
from nnunet_robust.eval.sweep.estimate import Expected, Tried
from nnunet_robust.eval.sweep.parameters import SweepParameters
from nnunet_robust.eval.sweep.plan import plan_sweep
from nnunet_robust.eval.sweep.run import SweepResult, execute, foresee


def run_sweep(parameters: SweepParameters, progress: Progress) -> SweepResult:
    """Run a sweep, finish one, or take part in one: several processes may have one output folder.

    Args:
        parameters: what to run.
        progress: is told of every finished prediction.

    Raises:
        UserError: bad input, in one line, and nothing was computed then; or the disk is full.
    """
    try:
        return execute(plan_sweep(parameters), progress)
    except (OSError, RuntimeError) as error:
        if parameters.output.is_dir() and is_disk_full(error, parameters.output):
            raise UserError(
                f"the disk of {parameters.output} is full: make room, and the same command goes on from here"
            ) from error
        raise


def foresee_sweep(parameters: SweepParameters) -> tuple[Expected, Tried | None]:
    """Find out what `run_sweep` would do, and how long it would take. See `run.foresee`.

    Raises:
        UserError: bad input, in one line.
    """
    return foresee(plan_sweep(parameters))
