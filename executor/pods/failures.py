"""What an effect that broke down looks like to the core. Pure."""

from executor.pods.core import effects as ef
from executor.pods.core import events as ev


def failed(effect: ef.Effect, message: str) -> ev.Event | None:
    """The event that stands for it; None when the core waits for none."""
    match effect:
        case ef.StartSandbox():
            return ev.SandboxFailed("FailedCreatePodSandBox", message)
        case ef.StopSandbox():
            return ev.SandboxStopped()
        case ef.Prepare(app):
            return ev.PrepareFailed(app, "CreateContainerError", message)
        case ef.Start(app, attempt):
            return ev.StartFailed(app, attempt, message)
        case ef.RunHook(app, attempt, hook):
            return ev.HookEnded(app, attempt, hook, message)
        case ef.MakeCheck(app, attempt, kind):
            return ev.Probed(app, attempt, kind, ev.Answer.UNKNOWN, message)
        case _:
            return None
