"""API errors become the Status objects that kube-apiserver sends."""

import pytest

from scheduler.registry import errors
from scheduler.registry.errors import FieldError


@pytest.mark.parametrize(
    ("error", "code", "reason", "message"),
    [
        (errors.BadRequest("no"), 400, "BadRequest", "no"),
        (errors.Unauthorized(), 401, "Unauthorized", "Unauthorized"),
        (errors.Forbidden("pods", "a", "why"), 403, "Forbidden", 'pods "a" is forbidden: why'),
        (errors.Forbidden("pods", "", "why"), 403, "Forbidden", "pods is forbidden: why"),
        (errors.NotFound("pods", "a"), 404, "NotFound", 'pods "a" not found'),
        (errors.NotFound("jobs", "a", group="batch"), 404, "NotFound", 'jobs.batch "a" not found'),
        (errors.NotFound(), 404, "NotFound", "the server could not find the requested resource"),
        (
            errors.MethodNotAllowed("create", "nodes"),
            405,
            "MethodNotAllowed",
            'create is not supported on resources of kind "nodes"',
        ),
        (
            errors.MethodNotAllowed(""),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            errors.NotAcceptable(["application/json"]),
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        ),
        (errors.AlreadyExists("pods", "a"), 409, "AlreadyExists", 'pods "a" already exists'),
        (
            errors.Conflict("pods", "a"),
            409,
            "Conflict",
            f'Operation cannot be fulfilled on pods "a": {errors.Conflict.STALE}',
        ),
        (errors.Gone("gone"), 410, "Gone", "gone"),
        (errors.Expired(), 410, "Expired", "The resourceVersion for the provided watch is too old."),
        (errors.TooLarge(10), 413, "RequestEntityTooLarge", "Request entity too large: limit is 10"),
        (
            errors.UnsupportedMediaType(["a", "b"]),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: a, b",
        ),
        (errors.TooManyRequests("slow", 3), 429, "TooManyRequests", "slow"),
        (errors.InternalError("oops"), 500, "InternalError", "Internal error occurred: oops"),
        (errors.ServiceUnavailable("later"), 503, "ServiceUnavailable", "later"),
        (errors.Timeout("node"), 504, "Timeout", "Timeout: node"),
    ],
)
def test_codes_reasons_messages(error, code, reason, message):
    status = error.to_status()
    assert (status["code"], status["reason"], status["message"]) == (code, reason, message)
    assert str(error) == message
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")


def test_details_name_the_object():
    assert errors.NotFound("pods", "a").to_status()["details"] == {"name": "a", "kind": "pods"}
    assert errors.NotFound("jobs", "a", group="batch").to_status()["details"]["group"] == "batch"
    assert "details" not in errors.NotFound().to_status()
    assert errors.TooManyRequests("slow", 3).to_status()["details"] == {"retryAfterSeconds": 3}


def test_one_cause_of_invalid():
    error = errors.Invalid("Pod", "a", [FieldError.required("spec.containers[0].image")])
    assert error.to_status() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'Pod "a" is invalid: spec.containers[0].image: Required value',
        "reason": "Invalid",
        "details": {
            "name": "a",
            "kind": "Pod",
            "causes": [
                {
                    "reason": "FieldValueRequired",
                    "message": "Required value",
                    "field": "spec.containers[0].image",
                }
            ],
        },
        "code": 422,
    }


def test_several_causes_of_invalid():
    causes = [FieldError.required("a"), FieldError.required("b", "it is needed")]
    error = errors.Invalid("Job", "x", causes, group="batch")
    assert error.message == 'Job.batch "x" is invalid: [a: Required value, b: Required value: it is needed]'
    assert error.causes == tuple(causes)


@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (FieldError.required("f"), "FieldValueRequired", "f: Required value"),
        (FieldError.invalid("f", "x", "bad"), "FieldValueInvalid", 'f: Invalid value: "x": bad'),
        (FieldError.invalid("f", 7, "bad"), "FieldValueInvalid", "f: Invalid value: 7: bad"),
        (FieldError.invalid("f", None, "bad"), "FieldValueInvalid", "f: Invalid value: null: bad"),
        (
            FieldError.not_supported("f", "x", ("b", "a")),
            "FieldValueNotSupported",
            'f: Unsupported value: "x": supported values: "a", "b"',
        ),
        (FieldError.forbidden("f", "no"), "FieldValueForbidden", "f: Forbidden: no"),
        (FieldError.duplicate("f", "x"), "FieldValueDuplicate", 'f: Duplicate value: "x"'),
        (FieldError.not_found("f", "x"), "FieldValueNotFound", 'f: Not found: "x"'),
        (FieldError.too_long("f", 5), "FieldValueTooLong", "f: Too long: may not be more than 5 bytes"),
    ],
)
def test_field_errors_read_as_kubernetes(error, reason, text):
    assert (error.reason, str(error)) == (reason, text)
    assert error.to_cause() == {"field": error.field, "reason": reason, "message": error.message}
