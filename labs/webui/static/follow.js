// Keeps the end of a growing text in the window, until the reader scrolls up.

const NEAR_PX = 60; // so close to the end counts as "at the end"

export class Follower {
  /** `content` grows inside `scroller`. `moved()` is called after each scrolling, by the reader or by the page. */
  constructor(scroller, content, moved) {
    this.scroller = scroller;
    this.on = true;
    this.top = 0; // where the window was last
    scroller.addEventListener("scroll", () => {
      this.look();
      moved();
    }, { passive: true });
    new ResizeObserver(() => this.on && this.toEnd()).observe(content);
  }

  toEnd() {
    this.on = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
  }

  look() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    // Far from the end, but not further up than before: the text has grown since the page went to its end.
    this.on = near || (this.on && scrollTop >= this.top);
    this.top = scrollTop;
  }
}
