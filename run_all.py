"""Run the numbered notebooks in order: `python run_all.py`; `python run_all.py --help` lists the options."""

import signal

# Until the study handles it, Ctrl-C ends this at once, not with a traceback out of the imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from cpx_utils.pipeline import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
