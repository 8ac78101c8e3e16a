"""Agents of fwrl: recurrent policies, rollouts and PPO."""
