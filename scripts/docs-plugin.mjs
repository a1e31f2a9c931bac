// A plugin of TypeDoc: pages of docs/ are called by their first heading instead of their file, and the site can be opened
// from disk, where a folder does not stand for its index.html.
import { Converter, PageEvent, ReflectionKind } from 'typedoc';

export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const page of project.getReflectionsByKind(ReflectionKind.Document)) {
      const [first] = page.content;
      const [, title, rest] = /^# (.*)\n([\s\S]*)$/.exec(first?.text ?? '') ?? [];
      if (title === undefined) throw new Error(`${page.name}.md does not begin with a heading`);
      page.name = title;
      first.text = rest;
    }
  });
  app.renderer.on(PageEvent.END, (page) => {
    page.contents = page.contents
      ?.replace(/href="((?:\.\.\/)+)(?=[#"])/g, 'href="$1index.html')
      .replace(/href="[^"]*icons\.svg#/g, 'href="#'); // every page has the icons too; another file's, browsers refuse
  });
}
