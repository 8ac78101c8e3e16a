"""Atari 2600 games on ale-py's vector environment, preprocessed as in Machado et al. (2018).

Frames are skipped; the maximum of a step's last two is turned grey and shrunk. Rewards are the raw
score: clipping is left to the learner. With ``frame_stack`` 1 an observation does not show in which
direction things move, so that an agent needs memory.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from envs.config import Config, EnvConfigError, nearest
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv
from envs.workers.replay import SEED_BITS, EpisodeLog, check_fit, fingerprints

# games without a mode for one player
MULTIPLAYER = {"combat", "joust", "maze_craze", "warlords"}
# height and width of the emulator's frames
SCREEN = (210, 160)
# frames per second of an Atari 2600
EMULATOR_FPS = 60.0


class AtariConfig(Config):
    """Games of ale-py. An observation is ``[frame_stack, screen_size, screen_size]`` uint8."""

    kind: Literal["atari"] = "atari"
    game: str
    """Name of the game in ale-py: pong, ms_pacman, ..."""
    num_envs: int = Field(default=8, ge=1)
    """Number of environments stepped together, in each process of a training."""
    frame_stack: int = Field(default=1, ge=1)
    """Frames in an observation, the newest last."""
    frame_skip: int = Field(default=4, ge=1)
    """Frames for which an action is repeated."""
    sticky_actions: float = Field(default=0.25, ge=0, lt=1)
    """Probability, per frame, that the previous action is repeated."""
    noop_max: int = Field(default=30, ge=0)
    """Most no-ops at the start of an episode; their number is random."""
    fire_on_reset: bool = False
    """Whether an episode opens with the fire button, where there is one."""
    screen_size: int = Field(default=84, ge=8)
    """Height and width of an observation."""
    grayscale: bool = True
    """False appends an axis of three colours."""
    full_action_space: bool = False
    """Whether to offer all 18 actions, also those without effect in the game."""
    life_loss_terminates: bool = False
    """Whether a lost life ends an episode; never in evaluation."""
    max_episode_frames: int = Field(default=108_000, ge=1)
    """Frames after which episodes are truncated; the default is half an hour."""
    num_threads: int = Field(default=0, ge=0)
    """Threads of the emulator; 0: one per core."""
    longest_replay: int = Field(default=100_000, ge=0)
    """Most steps of a game that are recorded, to be replayed when a run continues; a longer game is
    then replaced by a new one."""


def atari_games() -> list[str]:
    """The names of all games for one player in ale-py."""
    # imported here because it is slow and most runs do not need it
    from ale_py import roms  # noqa: PLC0415

    return sorted(set(roms.get_all_rom_ids()) - MULTIPLAYER)


def make_atari(config: AtariConfig, num_envs: int, evaluation: bool, render: bool) -> VectorEnv:
    """N copies of the game; in evaluation a lost life never ends an episode.

    Raises:
        EnvConfigError: For a game that ale-py does not have.
    """
    games = atari_games()
    if config.game not in games:
        raise EnvConfigError(f"no Atari game {config.game!r}; {nearest(config.game, games)}")
    if evaluation:
        config = config.model_copy(update={"life_loss_terminates": False})
    screen = _colour_screen(config) if render else None
    return _Atari(_emulators(config, num_envs), config, screen)


def _emulators(config: AtariConfig, num_envs: int, size: tuple[int, int] | None = None) -> Any:
    # imported here because it is slow and most runs do not need it
    from ale_py.vector_env import AtariVectorEnv  # noqa: PLC0415

    height, width = size or (config.screen_size, config.screen_size)
    shared = gymnasium.vector.VectorEnv.metadata
    before = dict(shared)
    emulators = AtariVectorEnv(
        config.game,
        num_envs,
        num_threads=config.num_threads,
        max_num_frames_per_episode=config.max_episode_frames,
        repeat_action_probability=config.sticky_actions,
        full_action_space=config.full_action_space,
        autoreset_mode=AutoresetMode.SAME_STEP,
        img_height=height,
        img_width=width,
        grayscale=config.grayscale,
        stack_num=config.frame_stack,
        frameskip=config.frame_skip,
        noop_max=config.noop_max,
        # not `episodic_life`, which starts a new game after every life: later lives, and the parts
        # of the game that only they reach, would never be played
        life_loss_info=config.life_loss_terminates,
        reward_clipping=False,
        use_fire_reset=config.fire_on_reset,
    )
    # The constructor wrote its mode into a dictionary that all vector environments share, and so
    # relabelled those that were built in another mode.
    emulators.metadata = dict(shared)
    shared.clear()
    shared.update(before)
    return emulators


def _colour_screen(config: AtariConfig) -> Any:
    """One emulator with the whole screen in colour."""
    update = {"grayscale": False, "frame_stack": 1, "num_threads": 1}
    return _emulators(config.model_copy(update=update), 1, SCREEN)


class _Atari(VectorEnv):
    """Games under our contract.

    Every game has a seed of its own, so that it can be replayed: when one is over, ale-py resets
    the emulator with an unknown seed, and we reset it again with ours. Its vector environment
    cannot render; a second emulator, ``screen``, plays slot 0 with the same seeds and actions.
    """

    def __init__(self, emulators: Any, config: AtariConfig, screen: Any = None) -> None:
        self.num_envs = emulators.num_envs
        self.observation_space = emulators.single_observation_space
        self.action_space = emulators.single_action_space
        self.render_fps = EMULATOR_FPS / config.frame_skip
        self._emulators = emulators
        self._screen = screen
        self._picture: NDArray[np.uint8] | None = None
        # an episode in the log is a whole game, also where a lost life ends episodes
        self._log = EpisodeLog(self.num_envs, self.action_space, config.longest_replay)
        # frames since the game began, also across lost lives
        self._frame = np.zeros(self.num_envs, np.int32)
        self._shown = np.zeros((self.num_envs, *(self.observation_space.shape or ())), np.uint8)

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        # seeds of emulators are 32-bit integers with a sign
        self._log.restart(None if seed is None else seed % (2**SEED_BITS - self.num_envs))
        self._open(np.ones(self.num_envs, np.bool_))
        return self._shown.copy()

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        action = np.asarray(action, np.int64)
        self._log.record(action)
        before = self._frame
        reward, terminated, truncated, info = self._advance(action)
        final_observation = None
        ended = terminated | truncated
        if ended.any():
            # Where a life was lost the game goes on, and ale-py gives no final observation.
            new_game = ended & (self._frame <= before)
            final_observation = np.copy(self._shown)
            if new_game.any():
                final_observation[new_game] = info["final_obs"][new_game]
                self._log.next(new_game)
                self._open(new_game)
        return EnvStep(
            self._shown.copy(), reward.astype(np.float32), terminated, truncated, final_observation
        )

    @override
    def render(self) -> NDArray[np.uint8] | None:
        return self._picture

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return self.snapshot()()

    @override
    def snapshot(self) -> Callable[[], dict[str, NDArray[Any]] | None]:
        recording, shown = self._log.recording(), fingerprints(self._shown)
        return lambda: {**recording.state(), "shown": shown.copy()}

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        check_fit(state, {"shown": np.zeros(self.num_envs, np.int64)})
        anew = ~self._log.load(state)
        self._replay()
        anew |= fingerprints(self._shown) != state["shown"]
        if anew.any():
            self._log.next(anew)
            self._open(anew)
        return Restored(anew, self._shown.copy())

    def _replay(self) -> None:
        """Replay all recorded games so that all of them are where they were at the same time.

        Slots with a shorter game play a throw-away game first.
        """
        most = int(self._log.steps.max())
        waits = most - self._log.steps
        actions = np.zeros((most, self.num_envs), np.int64)
        for slot, wait in enumerate(waits.tolist()):
            actions[wait:, slot] = self._log.actions(slot)
        self._open(np.ones(self.num_envs, np.bool_))
        for time, action in enumerate(actions):
            if time > 0 and (waits == time).any():
                self._open(waits == time)
            self._advance(action)
        if most > 0 and (waits == most).any():
            self._open(waits == most)

    def _open(self, games: Bool[np.ndarray, " N"]) -> None:
        """Open the log's current game in the slots where ``games`` is True."""
        slots = np.flatnonzero(games).tolist()
        seeds = np.array([self._log.episode_seed(slot) for slot in slots], np.int64)
        # a mask is for emulators that have been reset before
        options = None if games.all() else {"reset_mask": games}
        self._shown, info = self._emulators.reset(seed=seeds, options=options)
        self._frame = info["episode_frame_number"]
        if self._screen is not None and games[0]:
            self._picture = self._screen.reset(seed=seeds[:1])[0][0, 0]

    def _advance(self, action: NDArray[np.int64]) -> tuple[Any, Any, Any, Any]:
        """Reward, terminated, truncated and info of one step of the emulators."""
        self._shown, reward, terminated, truncated, info = self._emulators.step(action)
        self._frame = info["episode_frame_number"]
        if self._screen is not None:
            picture, its_reward, *_ = self._screen.step(action[:1])
            assert its_reward[0] == reward[0], "the two emulators of slot 0 play different games"
            self._picture = picture[0, 0]
        return reward, terminated, truncated, info

    @override
    def close(self) -> None:
        # the emulators are freed with the last reference to them
        self._emulators.close()
        if self._screen is not None:
            self._screen.close()
