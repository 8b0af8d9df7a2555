"""Run the numbered notebooks in order: `python run_all.py`; `python run_all.py --help` lists the options."""

from cpx_utils.pipeline import main

if __name__ == "__main__":
    raise SystemExit(main())
