"""Ids and role names. Source: Mesos src/common/validation.cpp (`validateID`), src/common/roles.cpp."""

NAME_MAX = 255
_ROLE_FORBIDDEN = frozenset("\t\n\v\f\r \x7f")


def id_error(value: str) -> str | None:
    """Task, executor, framework and agent ids become directory names, hence the rules."""
    if not value:
        return "ID must not be empty"
    if len(value.encode()) > NAME_MAX:
        return f"ID must not be greater than {NAME_MAX} characters"
    if value in (".", ".."):
        return f"'{value}' is disallowed"
    if any(ord(c) < 32 or ord(c) == 127 or c in "/\\" for c in value):
        return f"'{value}' contains invalid characters"
    return None


def role_error(role: str) -> str | None:
    """A role is "*" or a path of components."""
    if role == "*":
        return None
    if role.startswith("/"):
        return f"Role '{role}' cannot start with a slash"
    if role.endswith("/"):
        return f"Role '{role}' cannot end with a slash"
    if "//" in role:
        return f"Role '{role}' cannot contain two adjacent slashes"
    if not role:
        return "Role names cannot be the empty string"
    for component in role.split("/"):
        if component in (".", "..", "*"):
            return f"Role '{role}' cannot include '{component}' as a component"
        if component.startswith("-"):
            return f"Role component '{component}' is invalid because it starts with a dash"
        if _ROLE_FORBIDDEN & set(component):
            return f"Role component '{component}' is invalid because it contains backspace or whitespace"
    return None
