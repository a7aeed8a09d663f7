"""From names and a goal to a `RunSpec` in which nothing has to be looked up again.

Everything that can be wrong is found here, before anything is written: all problems of a plan in
one `InvalidPlan`, with file and line where a resource has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crew_plugin.config.settings import Settings
from crew_plugin.engine.shares import PROVIDER, Said, lowest, policy, tag_limits, tags_of
from crew_plugin.errors import CallerError, InvalidPlan, InvalidValue, UnknownName
from crew_plugin.models.spec import (
    AgentSpec,
    LimitsSpec,
    RunSpec,
    RuntimeMode,
    SchemaForm,
    SchemaMode,
    SkillText,
    StepSpec,
)
from crew_plugin.resources.catalog import Catalog
from crew_plugin.resources.check import step_problems
from crew_plugin.resources.models import Kind, OnFailure, Role, Skills, Step, TeamFile, WorkflowFile
from crew_plugin.session.schema import check_schema

__all__ = ["DEFAULT_AGENT", "DEFAULT_TEAM", "ParallelTask", "WantedResult", "plan_parallel", "plan_run"]

DEFAULT_TEAM = "fast-fix"
"""The team of a run that names none."""
DEFAULT_AGENT = "executor"
"""The agent of an independent task that names none."""
SOLO = "solo"
"""What stands in a team's place when one agent works alone."""
PARALLEL = "parallel"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedResult:
    """What the caller asks of results, over what steps and agents say. None: as they say."""

    schema: Mapping[str, Any] | None = None
    """Of the steps that no other step builds on."""
    form: SchemaForm = "auto"
    mode: SchemaMode | None = None
    """Of every step."""


_AS_THEY_SAY = WantedResult()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelTask:
    """One of several tasks that know nothing of each other."""

    goal: str
    agent: str | None = None
    cwd: str | None = None
    resources: tuple[str, ...] = ()
    """What its session needs for itself while it runs."""


def plan_run(
    catalog: Catalog,
    settings: Settings,
    *,
    goal: str,
    cwd: str,
    team: str | None = None,
    workflow: str | None = None,
    agent: str | None = None,
    role: str | None = None,
    title: str | None = None,
    model: str | None = None,
    skills: Skills = None,
    width: int | None = None,
    max_turns: int | None = None,
    result: WantedResult = _AS_THEY_SAY,
    runtime: RuntimeMode | None = None,
    on_failure: OnFailure | None = None,
) -> RunSpec:
    """A team's workflow, one role of it, or one agent alone, on a goal.

    Raises:
        CallerError: a name is unknown, or the team and the workflow do not fit together.
    """
    if not goal.strip():
        raise InvalidValue("goal", goal, "some text that says what is to be achieved")
    draft = _Draft(
        catalog,
        settings,
        goal=goal,
        model=model,
        skills=skills,
        max_turns=max_turns,
        result=result,
        on_failure=on_failure,
    )
    if agent is not None:
        if team is not None or workflow is not None or role is not None:
            raise InvalidValue("agent", agent, "given alone, without team, workflow or role")
        draft.add_alone(agent, key=agent, task=goal, title=title)
        return draft.finish(team=SOLO, workflow=agent, cwd=cwd, width=1, runtime=runtime)
    if role is not None:
        chosen = _team(catalog, team or DEFAULT_TEAM)
        bound = chosen.roles.get(role)
        if bound is None:
            raise UnknownName(f"role in team {chosen.name!r}", role, chosen.roles)
        draft.add_alone(bound.agent, key=role, task=goal, title=title, role=bound)
        files = _Files(team=chosen, roles=(bound,))
        return draft.finish(team=chosen.name, workflow=role, cwd=cwd, width=1, runtime=runtime, files=files)
    return _plan_workflow(draft, team, workflow, cwd=cwd, width=width, runtime=runtime)


def plan_parallel(
    catalog: Catalog,
    settings: Settings,
    *,
    tasks: Sequence[ParallelTask],
    cwd: str,
    width: int | None = None,
    model: str | None = None,
    skills: Skills = None,
    result: WantedResult = _AS_THEY_SAY,
    runtime: RuntimeMode | None = None,
    on_failure: OnFailure | None = None,
) -> RunSpec:
    """One run with an independent step for each task."""
    if not tasks:
        raise InvalidValue("tasks", [], "a list with at least one task")
    goal = f"{len(tasks)} independent tasks side by side; each worker does its own and no other"
    draft = _Draft(
        catalog, settings, goal=goal, model=model, skills=skills, result=result, on_failure=on_failure
    )
    for number, task in enumerate(tasks, start=1):
        if not task.goal.strip():
            raise InvalidValue(
                f"tasks[{number - 1}].goal", task.goal, "some text that says what is to be done"
            )
        draft.add_alone(
            task.agent or DEFAULT_AGENT,
            key=f"t{number}",
            task=task.goal,
            title=_first_line(task.goal),
            cwd=task.cwd,
            resources=task.resources,
        )
    return draft.finish(team=PARALLEL, workflow=PARALLEL, cwd=cwd, width=width, runtime=runtime)


def _plan_workflow(
    draft: "_Draft",
    team: str | None,
    workflow: str | None,
    *,
    cwd: str,
    width: int | None,
    runtime: RuntimeMode | None,
) -> RunSpec:
    catalog = draft.catalog
    chosen = _team_for(catalog, team, workflow)
    name = workflow or (chosen.default_workflow if chosen else None)
    if name is None:
        assert chosen is not None
        raise InvalidPlan(
            f"team {chosen.name!r} ({chosen.path})",
            ["it names no default workflow; choose one of: " + ", ".join(sorted(catalog.workflows))],
        )
    plan = catalog.workflows.get(name)
    if plan is None:
        missing = catalog.missing(Kind.WORKFLOW, name)
        if workflow is None and chosen is not None:
            raise InvalidPlan(f"team {chosen.name!r} ({chosen.path})", [str(missing)])
        raise missing
    roles = {step.role: Role(name=step.role, agent=step.role) for step in plan.steps}
    if chosen is not None:
        roles = dict(chosen.roles)
    problems = [str(problem) for problem in step_problems(plan, chosen, roles)]
    for step in plan.steps:
        bound = roles.get(step.role)
        if bound is not None:
            problems += draft.add_step(step, bound, plan, chosen)
    if problems:
        who = f" with team {chosen.name!r}" if chosen else ""
        raise InvalidPlan(f"workflow {plan.name!r}{who}", problems)
    return draft.finish(
        team=chosen.name if chosen else plan.name,
        workflow=plan.name,
        cwd=cwd,
        width=width,
        runtime=runtime,
        files=_Files(workflow=plan, team=chosen, roles=tuple(roles.values())),
    )


def _team(catalog: Catalog, name: str) -> TeamFile:
    team = catalog.teams.get(name)
    if team is None:
        raise catalog.missing(Kind.TEAM, name)
    return team


def _team_for(catalog: Catalog, team: str | None, workflow: str | None) -> TeamFile | None:
    """The team that was named, or the one a workflow is made for; None if each role of the
    workflow is to be the agent of the same name."""
    if team is not None:
        return _team(catalog, team)
    if workflow is None:
        return _team(catalog, DEFAULT_TEAM)
    fitting = [each for each in catalog.teams.values() if each.default_workflow == workflow]
    return catalog.teams.get(workflow) or next(iter(fitting), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """The files that a run is made from, for what they say of limits and failures."""

    workflow: WorkflowFile | None = None
    team: TeamFile | None = None
    roles: tuple[Role, ...] = ()

    def widths(self) -> list[Said]:
        """How many sessions at once, for each file that says it."""
        return [Said(who=who, number=file.max_concurrency) for who, file in self._named()]

    def tags(self) -> dict[str, Said]:
        """What the team says of single roles, and of itself over all runs."""
        if self.team is None:
            return {}
        who = f"team {self.team.name}"
        said = {f"role:{role.name}": role.max_concurrency for role in self.roles}
        said[f"team:{self.team.name}"] = self.team.max_concurrency
        return {tag: Said(who=who, number=number) for tag, number in said.items() if number is not None}

    def policies(self) -> list[tuple[str, OnFailure | None]]:
        """What a failure does, for each file that says it."""
        return [(who, file.on_failure) for who, file in self._named()]

    def _named(self) -> list[tuple[str, WorkflowFile | TeamFile]]:
        named: list[tuple[str, WorkflowFile | TeamFile]] = []
        if self.workflow is not None:
            named.append((f"workflow {self.workflow.name}", self.workflow))
        if self.team is not None:
            named.append((f"team {self.team.name}", self.team))
        return named


@dataclass(slots=True)
class _Draft:
    """A plan in the making: its steps, and every agent and skill that they name."""

    catalog: Catalog
    settings: Settings
    goal: str = field(kw_only=True)
    model: str | None = field(kw_only=True, default=None)
    skills: Skills = field(kw_only=True, default=None)
    max_turns: int | None = field(kw_only=True, default=None)
    result: WantedResult = field(kw_only=True, default=_AS_THEY_SAY)
    on_failure: OnFailure | None = field(kw_only=True, default=None)
    steps: list[StepSpec] = field(init=False, default_factory=list[StepSpec])
    agents: dict[str, AgentSpec] = field(init=False, default_factory=dict[str, AgentSpec])
    texts: dict[str, SkillText] = field(init=False, default_factory=dict[str, SkillText])

    def __post_init__(self) -> None:
        if self.result.schema is not None:
            check_schema(self.result.schema, form=self.result.form, what="the schema that was given")
        missing = self._take_skills(self.skills)
        if missing:
            raise self.catalog.missing(Kind.SKILL, missing[0])

    def add_alone(
        self,
        agent: str,
        *,
        key: str,
        task: str,
        title: str | None = None,
        role: Role | None = None,
        cwd: str | None = None,
        resources: tuple[str, ...] = (),
    ) -> None:
        """A step without a workflow. Raises where the agent or a skill is missing."""
        spec = self._agent(agent)
        skills = role.skills if role else None
        missing = self._take_skills(spec.skills) + self._take_skills(skills)
        if missing:
            raise self.catalog.missing(Kind.SKILL, missing[0])
        self.steps.append(
            StepSpec(
                id=key,
                role=role.name if role else agent,
                agent=agent,
                task=task,
                title=title or _first_line(task),
                model=self._model(spec, role.model if role else None),
                skills=skills,
                limits=self._limits(spec),
                resources=resources,
                cwd=cwd,
            )
        )

    def add_step(self, step: Step, role: Role, workflow: WorkflowFile, team: TeamFile | None) -> list[str]:
        """A step of a workflow. Returns what is missing for it."""
        try:
            spec = self._agent(role.agent)
        except CallerError as error:
            where = f"{team.path}:{role.line}" if team else f"{workflow.path}:{step.line}"
            return [f"{where}: role {role.name!r}: {error}"]
        where = f"{workflow.path}:{step.line}: step {step.id!r}"
        skills = _joined(role.skills, step.skills)
        missing = [*self._take_skills(spec.skills), *self._take_skills(skills)]
        limits = step.limits.over(self._limits(spec), tighten=not workflow.trusted)
        self.steps.append(
            StepSpec(
                id=step.id,
                role=step.role,
                agent=role.agent,
                # Replaced once: what the goal itself contains is the caller's text, never a placeholder.
                task=step.task.replace("{goal}", self.goal) if step.task else self.goal,
                trusted=workflow.trusted or not step.task,
                title=step.id,
                depends_on=step.depends_on,
                reads=step.reads,
                output=step.output,
                optional=step.optional,
                attention=step.attention,
                model=self._model(spec, step.model or role.model),
                skills=skills,
                result_schema=dict(step.schema.body) if step.schema else None,
                schema_form=step.schema_form,
                schema_mode=step.schema_mode,
                limits=limits,
                resources=step.resources,
            )
        )
        return [f"{where}: {self.catalog.missing(Kind.SKILL, name)}" for name in dict.fromkeys(missing)]

    def finish(
        self,
        *,
        team: str,
        workflow: str,
        cwd: str,
        width: int | None,
        runtime: RuntimeMode | None,
        files: "_Files | None" = None,
    ) -> RunSpec:
        """The plan, whole. A width can be asked for below the limit of the settings, not above."""
        files = files or _Files()
        self._apply_wanted()
        requested = runtime or self.settings.runtime.mode
        if requested == "scaffold":
            # No step of a dry run has a result, and the prompt of each is wanted.
            self.steps = [step.model_copy(update={"attention": "pass"}) for step in self.steps]
        spec = RunSpec(
            goal=self.goal,
            team=team,
            workflow=workflow,
            cwd=cwd,
            steps=tuple(self.steps),
            agents=self.agents,
            skill_texts=self.texts,
            wall_seconds=self.settings.limits.run_wall_seconds,
            skills=self.skills,
            runtime_requested=requested,
        )
        return self._limited(spec, width, files)

    def _limited(self, spec: RunSpec, width: int | None, files: "_Files") -> RunSpec:
        """The plan with what it may use at once, and what a failure does; each with who said so."""
        most = self.settings.limits.width
        allowed, why = lowest(
            "width",
            [Said(who="the caller", number=width), *files.widths(), Said(who="the settings", number=most)],
        )
        set_at_once = {tag: each.sessions for tag, each in self.settings.at_once.items() if each.sessions}
        limits, notes = tag_limits(
            set_at_once, files.tags(), (tag for step in spec.steps for tag in tags_of(spec, step))
        )
        # A retry may ask another provider.
        others = {tag: most for tag, most in set_at_once.items() if tag.startswith(PROVIDER)}
        fail_fast, policy_why = policy(
            [
                ("the caller", self.on_failure),
                *files.policies(),
                ("the settings (limits.on_failure)", self.settings.limits.on_failure),
            ]
        )
        return spec.model_copy(
            update={
                "width": max(1, allowed or most),
                "tag_limits": {**others, **limits},
                "fail_fast": fail_fast,
                "limit_notes": (why, *notes, policy_why),
            }
        )

    def _apply_wanted(self) -> None:
        """Put what the caller asks of results over what the steps say."""
        wanted = self.result
        changes: dict[str, object] = {} if wanted.mode is None else {"schema_mode": wanted.mode}
        last: dict[str, object] = {}
        if wanted.schema is not None:
            last = {
                "result_schema": dict(wanted.schema),
                "schema_form": wanted.form,
                "schema_by_caller": True,
            }
        built_on = {key for step in self.steps for key in step.depends_on}
        self.steps = [
            step.model_copy(update=changes if step.id in built_on else {**changes, **last})
            for step in self.steps
        ]

    def _agent(self, name: str) -> AgentSpec:
        if name not in self.agents:
            file = self.catalog.agents.get(name)
            if file is None:
                raise self.catalog.missing(Kind.AGENT, name)
            if file.schema is not None:
                what = f"the schema of agent {name!r} ({file.path})"
                check_schema(file.schema.body, form=file.schema_form, what=what)
            self.agents[name] = file.to_spec(
                limits=self.settings.limits.session(), schema_mode=self.settings.result.schema_mode
            )
        return self.agents[name]

    def _take_skills(self, skills: Skills) -> list[str]:
        """Keep the texts of these skills; returns the names that no skill has."""
        missing: list[str] = []
        for name in skills or ():
            file = self.catalog.skills.get(name)
            if file is None:
                missing.append(name)
            else:
                self.texts[name] = SkillText(name=name, body=file.body)
        return missing

    def _model(self, agent: AgentSpec, nearer: str | None) -> str | None:
        """The caller's choice, else the step's, the role's, the agent's, the settings'."""
        return self.model or nearer or agent.model or self.settings.model

    def _limits(self, agent: AgentSpec) -> LimitsSpec:
        limits = agent.limits or self.settings.limits.session()
        if self.max_turns is None:
            return limits
        return limits.model_copy(update={"steps": min(self.max_turns, limits.steps)})


def _joined(role: Skills, step: Skills) -> Skills:
    """The step's own skills come on top of its role's; a step that wants none gets none."""
    if step is False or (role is False and not step):
        return False
    return tuple(dict.fromkeys([*(role or ()), *(step or ())])) or None


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 60 else line[:59] + "…"
