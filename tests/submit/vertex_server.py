"""Vertex AI's REST API and Artifact Registry's as far as they are used here; the real ones need an account.

Every request is read into the client library's own messages and every answer is written from them, so neither
can have a field that the API hasn't.
"""

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud.aiplatform_v1 import types

from tests.google_service import GoogleService, read, written
from tests.stand_in import Answer, Request

_PARENT = r"/v1/(projects/[^/]+/locations/[^/]+)"
Story = list[tuple[str, list[tuple[str, str, str]]]]


class VertexServer(GoogleService):
    routes = (
        *GoogleService.routes,
        ("GET", f"{_PARENT}/pipelineJobs", "list_jobs"),
        ("POST", f"{_PARENT}/pipelineJobs", "create_job"),
        ("GET", f"{_PARENT}/pipelineJobs/([^/:]+)", "get_job"),
        ("POST", f"{_PARENT}/pipelineJobs/([^/:]+):cancel", "cancel_job"),
        ("GET", f"{_PARENT}/schedules", "list_schedules"),
        ("POST", f"{_PARENT}/schedules", "create_schedule"),
        ("GET", f"{_PARENT}/schedules/([^/:]+)", "get_schedule"),
        ("POST", f"{_PARENT}/schedules/([^/:]+):(pause|resume)", "set_state"),
        ("DELETE", f"{_PARENT}/schedules/([^/:]+)", "delete_schedule"),
        ("POST", "/templates", "upload_template"),
        ("GET", "/templates/packages/([^/]+)/tags", "list_tags"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        self.tags: dict[str, list[str]] = {}
        # What a job is when it is looked at for the first time, the second and so on; the last one stays.
        self.story: Story = [("SUCCEEDED", [])]
        self._looks: dict[str, Any] = {}
        self._numbers = itertools.count(1)

    def list_jobs(self, request: Request, parent: str) -> Answer:
        return written(types.ListPipelineJobsResponse(pipeline_jobs=list(self.jobs.values())))

    def create_job(self, request: Request, parent: str) -> Answer:
        job = read(types.PipelineJob, request)
        key = request.query["pipelineJobId"]
        if key in self.jobs:
            return self.error(409, f"Resource {parent}/pipelineJobs/{key} already exists")
        job.name, job.state, job.create_time = f"{parent}/pipelineJobs/{key}", 2, datetime.now(UTC)
        self.jobs[key] = job
        self._looks[key] = itertools.chain(self.story, itertools.repeat(self.story[-1]))
        return written(job)

    def get_job(self, request: Request, parent: str, key: str) -> Answer:
        if key not in self.jobs:
            return self.error(404, f"pipeline job {key} not found")
        job = self.jobs[key]
        if job.state != types.PipelineState.PIPELINE_STATE_CANCELLED:
            state, tasks = next(self._looks[key])
            job.state = types.PipelineState[f"PIPELINE_STATE_{state}"]
            start = datetime(2026, 1, 1, tzinfo=UTC)
            job.job_detail = types.PipelineJobDetail(
                task_details=[
                    types.PipelineTaskDetail(
                        task_id=number,
                        task_name=name,
                        state=types.PipelineTaskDetail.State[of_task],
                        create_time=start + timedelta(seconds=number),
                        start_time=start + timedelta(seconds=number),
                        end_time=start + timedelta(seconds=number + 60),
                        error={"code": 9, "message": error} if error else None,
                    )
                    for number, (name, of_task, error) in enumerate(tasks)
                ]
            )
        return written(job)

    def cancel_job(self, request: Request, parent: str, key: str) -> Answer:
        self.jobs[key].state = types.PipelineState.PIPELINE_STATE_CANCELLED
        return Answer({})

    def list_schedules(self, request: Request, parent: str) -> Answer:
        name = re.fullmatch(r'display_name="(.*)"', request.query["filter"])[1]
        found = [each for each in self.schedules.values() if each.display_name == name]
        return written(types.ListSchedulesResponse(schedules=found))

    def create_schedule(self, request: Request, parent: str) -> Answer:
        schedule = read(types.Schedule, request)
        key = str(next(self._numbers))
        schedule.name, schedule.state = f"{parent}/schedules/{key}", types.Schedule.State.ACTIVE
        self.schedules[key] = schedule
        return written(schedule)

    def get_schedule(self, request: Request, parent: str, key: str) -> Answer:
        return written(self.schedules[key]) if key in self.schedules else self.error(404, "no such schedule")

    def set_state(self, request: Request, parent: str, key: str, state: str) -> Answer:
        self.schedules[key].state = types.Schedule.State["PAUSED" if state == "pause" else "ACTIVE"]
        return Answer({})

    def delete_schedule(self, request: Request, parent: str, key: str) -> Answer:
        del self.schedules[key]
        empty = {"@type": "type.googleapis.com/google.protobuf.Empty"}
        return Answer({"name": f"{parent}/operations/1", "done": True, "response": empty})

    def upload_template(self, request: Request) -> Answer:
        name = re.search(rb"^  name: (\S+)$", request.parts["content"], re.MULTILINE)[1].decode()
        self.tags.setdefault(name, []).append(request.parts["tags"].decode())
        return Answer(f"{name}/sha256:1234", content_type="text/plain")

    def list_tags(self, request: Request, name: str) -> Answer:
        if name not in self.tags:
            return self.error(404, f"package {name} not found")
        place = f"projects/p/locations/l/repositories/r/packages/{name}/tags"
        return Answer({"tags": [{"name": f"{place}/{tag}"} for tag in self.tags[name]]})
