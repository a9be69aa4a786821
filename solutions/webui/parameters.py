"""What a chat may set for its engine. Ranges are checked here, and explained in static/parameters.js."""

from pydantic import BaseModel, ConfigDict, Field


class Parameters(BaseModel):
    """The parameters of a chat; None: the model's own default."""

    model_config = ConfigDict(extra="forbid")

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    num_ctx: int | None = Field(default=None, ge=256, le=2**20)  # tokens of prompt and answer together
    num_predict: int | None = Field(default=None, ge=-1, le=2**20)  # tokens of the answer; -1: no limit
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    keep_alive: str | None = Field(default=None, pattern=r"^(-1|0|\d{1,6}[smh])$")  # how long the model stays loaded
